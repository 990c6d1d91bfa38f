/** The list of voices, each with a preview. */

import { send } from "./api.js";
import { decodeMono } from "./incoming.js";
import { Recording, toInt16 } from "./recording.js";
import { OWN } from "./settings.js";

const LANGUAGES = new Intl.DisplayNames("en", { type: "language" });

/** Fill the list; `play(sound, button)` plays a preview, `failed(error)` is told of what went wrong. */
export async function showVoices(play, failed) {
  const answer = await (await send("voices")).json();
  const list = document.getElementById("voices");
  list.replaceChildren(...answer.voices.map((voice) => row(voice, play, failed)), row({ id: OWN, name: "Own recording" }));
  const inputs = [...list.querySelectorAll("input")];
  (inputs.find((input) => input.value === answer.default) ?? inputs[0]).checked = true;
}

/** Return a voice's id as words: "en_man" is "Man (English)". */
export function spoken(id) {
  const [, code, name] = /^(?:([a-z]{2})_)?(.+)$/.exec(id);
  const words = name.replaceAll("_", " ");
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return code ? `${text} (${LANGUAGES.of(code)})` : text;
}

function row(voice, play, failed) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const radio = document.createElement("input");
  const text = document.createElement("span");
  radio.type = "radio";
  radio.name = "voice";
  radio.value = voice.id;
  text.textContent = spoken(voice.name ?? voice.id);
  label.append(radio, text);
  item.append(label);
  if (voice.preview) item.append(previewButton(voice, text.textContent, play, failed));
  return item;
}

function previewButton(voice, name, play, failed) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "round small";
  button.setAttribute("aria-label", `Play a preview of ${name}`);
  button.innerHTML = '<svg aria-hidden="true"><use href="#play"/></svg>';
  let sound;
  button.addEventListener("click", async () => {
    if (sound) {
      play(sound, button);
      return;
    }
    const made = new Recording();
    play(made, button);
    try {
      const answer = await send(voice.preview);
      made.append(toInt16(await decodeMono(await answer.arrayBuffer())));
      sound = made;
    } catch (error) {
      failed(error);
    } finally {
      made.finish();
    }
  });
  return button;
}
