/** The player on the page: button, waveform, position, clock. */

import { Player } from "./player.js";
import { clock, drawWave } from "./waveform.js";

const by = (id) => document.getElementById(id);
const LABELS = { playing: ["pause", "Pause"], waiting: ["pause", "Pause"] };

/** Show the play or stop symbol in a button. */
export function setIcon(button, icon, label) {
  button.querySelector("use").setAttribute("href", `#${icon}`);
  if (label) button.setAttribute("aria-label", label);
}

export class Deck {
  #expected = 0;
  #drawing = false;

  player = new Player();

  constructor() {
    this.player.addEventListener("state", () => this.draw());
    by("toggle").addEventListener("click", () => this.toggle());
    by("position").addEventListener("input", (event) => {
      this.player.seek(Number(event.target.value));
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(by("wave"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Take a recording; `expected` is its likely duration while it is being made. */
  load(recording, expected = 0) {
    this.#expected = expected;
    this.player.load(recording);
    recording.addEventListener("grow", () => this.draw());
    this.draw();
  }

  set expected(seconds) {
    this.#expected = seconds;
  }

  toggle() {
    const { state } = this.player;
    if (state === "playing" || state === "waiting") this.player.pause();
    else if (this.player.recording) this.player.play();
  }

  /** Draw now, and again with each frame while something moves. */
  draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#frame();
      if (this.player.state === "playing") this.draw();
    });
  }

  #frame() {
    const { recording, state, position } = this.player;
    const seconds = recording?.seconds ?? 0;
    const span = recording?.complete ? seconds : Math.max(this.#expected, seconds * 1.05);
    drawWave(by("wave"), recording?.peaks ?? [], seconds, { span, at: position });
    const [icon, label] = LABELS[state] ?? ["play", "Play"];
    setIcon(by("toggle"), icon, label);
    by("toggle").disabled = !seconds && state !== "waiting";
    const slider = by("position");
    slider.disabled = !seconds;
    slider.max = span;
    slider.value = position;
    slider.setAttribute("aria-valuetext", `${clock(position)} of ${clock(seconds)}`);
    by("at").textContent = clock(position);
    by("length").textContent = clock(seconds);
  }
}
