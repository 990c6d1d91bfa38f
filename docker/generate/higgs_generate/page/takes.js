/** The list of what was made before. */

import * as history from "./history.js";
import { Recording } from "./recording.js";
import { spoken } from "./voices.js";
import { clock } from "./waveform.js";

const by = (id) => document.getElementById(id);

/** Show the takes of this browser; `open(take)`, `reuse(take)` and `resume(take)` are what one can do. */
export class TakeList {
  #does;

  constructor(does) {
    this.#does = does;
    by("clear").addEventListener("click", async () => {
      if (!confirm("Delete everything that this browser has kept?")) return;
      await history.forgetAll();
      await this.show();
    });
  }

  async show() {
    let takes;
    try {
      takes = await history.takes();
    } catch {
      by("history-note").textContent = "This browser keeps no history: it is a private window, or storage is off.";
      return;
    }
    by("clear").hidden = takes.length === 0;
    by("history-note").hidden = takes.length > 0;
    by("history").replaceChildren(...takes.map((take) => this.#row(take)));
  }

  #row(take) {
    const item = document.createElement("li");
    const said = document.createElement("p");
    said.className = "said";
    said.dir = "auto";
    said.textContent = take.body.text;
    const what = document.createElement("p");
    what.className = "what";
    what.textContent = [
      take.body.voice ? spoken(take.body.voice) : "Own recording",
      take.unfinished ? "not finished" : clock(take.seconds),
      take.body.response_format.toUpperCase(),
      new Date(take.id).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }),
    ].join(" · ");
    const words = document.createElement("div");
    words.append(said, what);
    const about = take.body.text.slice(0, 40);
    const open = take.unfinished ? button("Continue", "", about) : button("", "play", `Play: ${about}`);
    open.addEventListener("click", () => (take.unfinished ? this.#does.resume(take) : this.#does.open(take, true)));
    const reuse = button("Use again", "", about);
    reuse.addEventListener("click", () => this.#does.reuse(take));
    const remove = button("Delete", "", about);
    remove.addEventListener("click", async () => {
      const next = item.nextElementSibling ?? item.previousElementSibling;
      await history.forget(take.id);
      this.#does.removed(take);
      await this.show();
      (next && by("history").querySelector("button") || by("text")).focus();
    });
    const more = document.createElement("div");
    more.className = "do";
    more.append(reuse, remove);
    item.append(open, words, more);
    return item;
  }
}

function button(text, icon, about) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = icon ? "round small" : "quiet";
  made.textContent = text;
  made.setAttribute("aria-label", text ? `${text}: ${about}` : about);
  if (icon) made.innerHTML = `<svg aria-hidden="true"><use href="#${icon}"/></svg>`;
  return made;
}

/** Return the sound of a take. */
export function soundOf(take) {
  return Recording.kept(take.sound, take.peaks, take.rate);
}
