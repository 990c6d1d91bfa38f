/**
 * Play a recording while it grows.
 *
 * Pieces are scheduled as AudioBuffers, sample after sample on one clock. That needs no secure
 * context, which an AudioWorklet does, so it also plays from http://HOST:8888.
 */

const AHEAD = 8; // seconds that are scheduled before they are heard
const PIECE = 1; // seconds of one AudioBuffer, at most
const LEAD = 0.12; // seconds that have to be there before the first sound
const LEAD_AFTER_GAP = 0.6;
// Seconds from scheduling to sound. A piece that is scheduled later than its time starts late and
// sounds into the next one.
const SOON = 0.05;
const SOON_AFTER_GAP = 0.2;

export class Player extends EventTarget {
  #context = null;
  #recording = null;
  #sources = new Set();
  #next = 0; // first sample that is not scheduled
  #anchor = null; // {time, sample}: which sample sounds when, since the last gap
  #end = 0; // time at which what is scheduled ends
  #run = 0; // changes with each stop, so that what was begun before it does nothing
  #pumping = false;
  #grown = () => this.#pump();

  state = "empty"; // empty, stopped, waiting, playing, paused
  gaps = 0;

  /** Allow sound; call it while a click or key is handled. */
  unlock() {
    this.#context ??= new AudioContext({ sampleRate: 24000, latencyHint: "interactive" });
    if (this.#context.state === "suspended" && this.state !== "paused") this.#context.resume();
  }

  get recording() {
    return this.#recording;
  }

  /** The position of what is heard, in seconds. */
  get position() {
    if (!this.#recording) return 0;
    const { rate } = this.#recording;
    if (!this.#anchor) return this.#next / rate;
    const heard = this.#anchor.sample + Math.max(0, this.#context.currentTime - this.#anchor.time) * rate;
    return Math.min(heard, this.#next) / rate;
  }

  /** Take another recording, without playing it. */
  load(recording) {
    this.#halt();
    this.#recording?.removeEventListener("grow", this.#grown);
    this.#recording = recording;
    recording.addEventListener("grow", this.#grown);
    this.#next = 0;
    this.gaps = 0;
    this.#set("stopped");
  }

  play() {
    this.unlock();
    this.#context.resume();
    if (this.state === "paused") {
      this.#set(this.#sources.size ? "playing" : "waiting");
    } else if (this.state === "stopped") {
      if (this.#recording.complete && this.#next >= this.#recording.length) this.#next = 0;
      this.#set("waiting");
    }
    this.#pump();
  }

  pause() {
    if (this.state !== "playing" && this.state !== "waiting") return;
    this.#context.suspend();
    this.#set("paused");
  }

  /** Go to a position in seconds. */
  seek(seconds) {
    const sounding = this.state === "playing" || this.state === "waiting";
    this.#halt();
    this.#next = Math.min(Math.round(seconds * this.#recording.rate), this.#recording.length);
    this.#set("stopped");
    if (sounding) this.play();
  }

  #halt() {
    this.#run += 1;
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#sources.clear();
    this.#anchor = null;
    this.#pumping = false;
  }

  #set(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  async #pump() {
    if (this.#pumping || !["waiting", "playing", "paused"].includes(this.state)) return;
    this.#pumping = true;
    const run = this.#run;
    const recording = this.#recording;
    while (this.#wants()) {
      const samples = await recording.read(this.#next, Math.round(PIECE * recording.rate));
      if (run !== this.#run) return;
      this.#schedule(samples);
    }
    this.#pumping = false;
    if (this.#sources.size) return;
    if (recording.complete && this.#next >= recording.length) {
      this.#anchor = null;
      this.#set("stopped");
      this.dispatchEvent(new Event("ended"));
    }
  }

  /** Whether to schedule more now. */
  #wants() {
    const { length, rate, complete } = this.#recording;
    const there = (length - this.#next) / rate;
    if (there <= 0) return false;
    const now = this.#context.currentTime;
    if (this.#sources.size) return this.#end - now < AHEAD;
    return complete || there >= (this.gaps ? LEAD_AFTER_GAP : LEAD);
  }

  #schedule(samples) {
    const { rate } = this.#recording;
    const now = this.#context.currentTime;
    if (!this.#anchor || this.#end < now + SOON / 2) {
      const soon = this.gaps ? SOON_AFTER_GAP : SOON;
      const time = Math.ceil((now + soon) * this.#context.sampleRate) / this.#context.sampleRate;
      this.#anchor = { time, sample: this.#next };
    }
    const buffer = this.#context.createBuffer(1, samples.length, rate);
    buffer.copyToChannel(Float32Array.from(samples, (x) => x / 32768), 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    source.onended = () => this.#ended(source);
    source.start(this.#anchor.time + (this.#next - this.#anchor.sample) / rate);
    this.#sources.add(source);
    this.#next += samples.length;
    this.#end = this.#anchor.time + (this.#next - this.#anchor.sample) / rate;
    if (this.state === "waiting") this.#set("playing");
  }

  #ended(source) {
    this.#sources.delete(source);
    if (!this.#sources.size && !(this.#recording.complete && this.#next >= this.#recording.length)) {
      this.gaps += 1;
      this.#anchor = null;
      this.#set("waiting");
    }
    this.#pump();
  }
}
