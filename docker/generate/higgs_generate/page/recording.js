/** Sound of any length as 16-bit mono samples: grows while it is made, and can be read anywhere. */

const LOOSE_SAMPLES = 1 << 19; // 1 MB: from then on a Blob, which a browser may move to its disk
export const PEAKS_PER_SECOND = 50;

export class Recording extends EventTarget {
  #blocks = []; // {from, length, data}: data is an Int16Array, or a Blob of many of them
  #loose = 0;
  #peakFill = 0;

  constructor(rate = 24000) {
    super();
    this.rate = rate;
    this.length = 0;
    this.complete = false;
    this.peaks = [];
  }

  /** Return a finished recording from what `pcm()` and `peaks` gave. */
  static kept(blob, peaks, rate) {
    const recording = new Recording(rate);
    recording.#blocks = [{ from: 0, length: blob.size / 2, data: blob }];
    recording.length = blob.size / 2;
    recording.peaks = peaks;
    recording.complete = true;
    return recording;
  }

  get seconds() {
    return this.length / this.rate;
  }

  append(samples) {
    if (!samples.length) return;
    this.#blocks.push({ from: this.length, length: samples.length, data: samples });
    this.length += samples.length;
    this.#loose += samples.length;
    this.#addPeaks(samples);
    if (this.#loose >= LOOSE_SAMPLES) this.#fold();
    this.dispatchEvent(new Event("grow"));
  }

  finish() {
    this.complete = true;
    this.dispatchEvent(new Event("grow"));
  }

  /** Return up to `count` samples from sample `from` on; fewer at the end of a block. */
  async read(from, count) {
    let at = this.#blocks.length - 1;
    while (at > 0 && this.#blocks[at].from > from) at -= 1;
    const block = this.#blocks[at];
    if (!block || from >= block.from + block.length) return new Int16Array(0);
    const start = from - block.from;
    const end = Math.min(block.length, start + count);
    if (block.data instanceof Int16Array) return block.data.subarray(start, end);
    return new Int16Array(await block.data.slice(start * 2, end * 2).arrayBuffer());
  }

  /** Return all samples as a Blob of raw PCM. */
  pcm() {
    return new Blob(this.#blocks.map((block) => block.data), { type: "audio/pcm" });
  }

  /** Return a WAV file with the right length in its header. */
  wav() {
    return new Blob([wavHeader(this.rate, this.length), this.pcm()], { type: "audio/wav" });
  }

  #fold() {
    const first = this.#blocks.findIndex((block) => block.data instanceof Int16Array);
    const small = this.#blocks.splice(first);
    const data = new Blob(small.map((block) => block.data));
    this.#blocks.push({ from: small[0].from, length: this.#loose, data });
    this.#loose = 0;
  }

  #addPeaks(samples) {
    const step = this.rate / PEAKS_PER_SECOND;
    for (const sample of samples) {
      if (this.#peakFill === 0) this.peaks.push(0);
      const last = this.peaks.length - 1;
      this.peaks[last] = Math.max(this.peaks[last], Math.abs(sample) / 32768);
      this.#peakFill = (this.#peakFill + 1) % step;
    }
  }
}

export function wavHeader(rate, samples) {
  const view = new DataView(new ArrayBuffer(44));
  const name = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  name(0, "RIFF");
  view.setUint32(4, 36 + samples * 2, true);
  name(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  name(36, "data");
  view.setUint32(40, samples * 2, true);
  return view.buffer;
}

/** Return floats from -1 to 1 as 16-bit samples. */
export function toInt16(floats) {
  return Int16Array.from(floats, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32768))));
}
