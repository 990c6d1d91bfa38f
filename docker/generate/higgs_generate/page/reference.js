/** The user's own recording: a file or the microphone, as a WAV file of one channel and 24 kHz. */

import { decodeMono } from "./incoming.js";
import { Recording, toInt16 } from "./recording.js";
import { clock, drawWave } from "./waveform.js";

const by = (id) => document.getElementById(id);
const QUIET = -30; // dBFS of the loudest sample below which a recording is too quiet
const SHORTEST = 1;
const FALL = 0.7; // dB that the shown level falls with each frame, so that short sounds can be seen

export class Reference extends EventTarget {
  #recorder = null;
  #longest = 60;

  sound = null; // a Recording
  problem = "";

  /** @param play plays a Recording or stops it: the page has one player for previews. */
  constructor(play) {
    super();
    by("reference-file").addEventListener("change", (event) => this.#choose(event.target));
    by("record").addEventListener("click", () => this.#record());
    by("listen").addEventListener("click", () => play(this.sound, by("listen")));
    by("drop").addEventListener("click", () => {
      this.#take(null);
      by("record").focus();
    });
    if (!navigator.mediaDevices?.getUserMedia) {
      by("record").disabled = true;
      this.#say("Browsers allow the microphone on https:// pages and on localhost only: choose a file.");
    }
  }

  set longest(seconds) {
    this.#longest = seconds;
  }

  /** Return the WAV file in base64. */
  async base64() {
    const bytes = new Uint8Array(await this.sound.wav().arrayBuffer());
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) {
      text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    }
    return btoa(text);
  }

  /** Take a WAV file that `Recording.wav` made. */
  use(blob) {
    return this.#read(blob, "");
  }

  draw() {
    if (this.sound) drawWave(by("reference-wave"), this.sound.peaks, this.sound.seconds, { ruler: false });
  }

  async #choose(input) {
    const [file] = input.files;
    input.value = "";
    if (file) await this.#read(file, `${file.name} `);
  }

  async #read(blob, name) {
    const samples = await blob.arrayBuffer().then(decodeMono).catch(() => null);
    if (!samples?.length) {
      this.#take(null);
      this.#fail(`${name || "The recording "}is not audio that this browser can read: choose a WAV, MP3 or FLAC file.`);
      return;
    }
    const sound = new Recording();
    sound.append(toInt16(samples));
    sound.finish();
    this.#take(sound, name);
  }

  #take(sound, name = "") {
    this.sound = sound;
    this.#fail("");
    by("recorded").hidden = !sound;
    if (sound) {
      const peak = 20 * Math.log10(sound.peaks.reduce((most, x) => Math.max(most, x), 1e-6));
      const level = peak > -0.1 ? "clipped: record it with less gain"
        : peak < QUIET ? "very quiet: record it closer to the microphone"
        : "good level";
      this.#say(`${name}${clock(sound.seconds)}, peak ${Math.round(peak) || 0} dB, ${level}.`);
      if (sound.seconds > this.#longest) {
        this.#fail(`The recording is longer than ${this.#longest} s: choose a shorter one.`);
      } else if (sound.seconds < SHORTEST) {
        this.#fail("The recording is shorter than 1 s: 5 to 20 s give a voice that holds.");
      }
      this.draw();
    } else {
      this.#say("5 to 20 seconds of one speaker, without music or noise.");
    }
    this.dispatchEvent(new Event("change"));
  }

  async #record() {
    if (this.#recorder) {
      this.#recorder.stop();
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
      });
    } catch (error) {
      this.#fail(error.name === "NotAllowedError"
        ? "The browser does not allow the microphone: allow it for this page, or choose a file."
        : "No microphone was found: connect one, or choose a file.");
      return;
    }
    this.#take(null);
    const recorder = new MediaRecorder(stream, { audioBitsPerSecond: 256_000 });
    const parts = [];
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", async () => {
      this.#recorder = null;
      stream.getTracks().forEach((track) => track.stop());
      by("record").textContent = "Record";
      by("record").classList.remove("recording");
      by("level-row").hidden = true;
      await this.#read(new Blob(parts, { type: recorder.mimeType }), "");
    });
    this.#recorder = recorder;
    recorder.start();
    by("record").textContent = "Stop recording";
    by("record").classList.add("recording");
    by("level-row").hidden = false;
    this.#watch(stream, recorder);
  }

  /** Show level and length until the recorder stops. */
  #watch(stream, recorder) {
    const context = new AudioContext();
    const meter = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(meter);
    const samples = new Float32Array(meter.fftSize);
    const began = performance.now();
    let level = -60;
    const tick = () => {
      if (recorder.state !== "recording") {
        context.close();
        return;
      }
      meter.getFloatTimeDomainData(samples);
      const peak = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-3);
      const seconds = (performance.now() - began) / 1000;
      level = Math.max(20 * Math.log10(peak), level - FALL);
      by("level").value = level;
      by("level-text").textContent = clock(seconds);
      if (seconds >= this.#longest) recorder.stop();
      else requestAnimationFrame(tick);
    };
    tick();
  }

  #say(text) {
    by("reference-note").textContent = text;
  }

  #fail(text) {
    this.problem = text;
    this.dispatchEvent(new Event("problem"));
  }
}
