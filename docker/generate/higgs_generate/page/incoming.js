/** Turn the body of an answer into samples while it arrives. */

import { toInt16 } from "./recording.js";

const RATE = 24000;
const UNSETTLED = 0.1 * RATE; // samples at the end of a cut file that its rest may still change
const FIRST_TRY = 4096;

/**
 * Read a response into a recording as it arrives.
 *
 * WAV and PCM are taken as they are. Other formats are decoded from their beginning again each time
 * that they have grown by half: a browser decodes whole files only.
 *
 * Returns the received file as a Blob, or null where the recording itself is the file.
 */
export async function receive(response, format, recording, onBytes = () => {}) {
  const into = format === "pcm" ? rawInto(recording)
    : format === "wav" ? wavInto(recording)
    : compressedInto(recording);
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    onBytes(value.length);
    into.take(value);
  }
  const file = await into.end();
  recording.finish();
  return file && new Blob(file, { type: response.headers.get("Content-Type") ?? "" });
}

function rawInto(recording) {
  let odd = new Uint8Array(0); // a chunk may end inside a sample
  return {
    take(bytes) {
      const all = joined([odd, bytes]);
      const whole = all.length & ~1;
      odd = all.slice(whole);
      recording.append(new Int16Array(all.buffer, 0, whole / 2));
    },
    end: async () => null,
  };
}

function wavInto(recording) {
  const raw = rawInto(recording);
  let head = new Uint8Array(0);
  let started = false;
  return {
    take(bytes) {
      if (started) return raw.take(bytes);
      head = joined([head, bytes]);
      const found = wavData(head);
      if (!found) return undefined;
      started = true;
      recording.rate = found.rate;
      return raw.take(head.subarray(found.at));
    },
    async end() {
      if (!started && head.length) throw new Error("The answer is not a WAV file.");
      return null;
    },
  };
}

/** Return where the samples of a WAV file begin, once its beginning is long enough. */
function wavData(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let rate = RATE;
  for (let at = 12; at + 8 <= bytes.length;) {
    const name = String.fromCharCode(...bytes.subarray(at, at + 4));
    if (name === "data") return { at: at + 8, rate };
    if (name === "fmt " && at + 16 <= bytes.length) rate = view.getUint32(at + 12, true);
    at += 8 + view.getUint32(at + 4, true);
  }
  return null;
}

function compressedInto(recording) {
  const parts = [];
  let size = 0;
  let next = FIRST_TRY;
  let work = Promise.resolve();
  const decode = async (whole) => {
    const decoded = await decodeMono(joined(parts).buffer).catch((error) => {
      if (whole && size) throw error;
      return new Float32Array(0); // too short yet
    });
    const settled = whole ? decoded.length : decoded.length - UNSETTLED;
    if (settled > recording.length) {
      recording.append(toInt16(decoded.subarray(recording.length, settled)));
    }
  };
  return {
    take(bytes) {
      parts.push(bytes);
      size += bytes.length;
      if (size < next) return;
      next = size * 1.5;
      work = work.then(() => decode(false));
    },
    async end() {
      await work;
      await decode(true);
      return parts;
    },
  };
}

/** Decode a whole audio file to one channel of 24 kHz. */
export async function decodeMono(buffer) {
  const audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(buffer);
  if (audio.numberOfChannels === 1) return audio.getChannelData(0);
  const mix = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
    audio.getChannelData(channel).forEach((x, i) => (mix[i] += x / audio.numberOfChannels));
  }
  return mix;
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
