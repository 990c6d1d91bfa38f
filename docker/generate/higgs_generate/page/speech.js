/** One request for speech: its sound, its times, its progress, and going on after a broken connection. */

import { RequestError, send } from "./api.js";
import { receive } from "./incoming.js";
import { Recording } from "./recording.js";

const TRIES = 6; // without a new byte between them

/**
 * Speech that is being made.
 *
 * Events: `progress` (see `job`), `broken` and `resumed` (the connection). `run` resolves
 * when all sound has arrived, and throws RequestError or AbortError.
 */
export class Speech extends EventTarget {
  #cancel = new AbortController();
  #began = performance.now();
  #watching = false;

  recording = new Recording();
  job = {}; // what the server says of a long text: pieces, pieces_done, characters, ...
  jobId = "";
  file = null; // the received file, where the recording itself is not it
  first = null; // seconds until the first sound that was heard
  total = null; // seconds until the last byte

  /**
   * @param body the request.
   * @param jobId a long text that has been started before, to go on with.
   */
  constructor(body, jobId = "") {
    super();
    this.body = body;
    this.jobId = jobId;
  }

  cancel() {
    this.#cancel.abort();
  }

  heard() {
    this.first ??= this.seconds;
  }

  /** Seconds since the request. */
  get seconds() {
    return (performance.now() - this.#began) / 1000;
  }

  async run(reference = null) {
    const { signal } = this.#cancel;
    const { response_format: format } = this.body;
    let response = null;
    for (let failures = 0; ;) {
      try {
        if (!response) response = this.jobId ? await this.#resume(format) : await this.#start(reference);
        this.file = await receive(response.answer, response.format, this.recording, () => (failures = 0));
        break;
      } catch (error) {
        failures += 1;
        response = null;
        if (signal.aborted) throw new DOMException("cancelled", "AbortError");
        if (!this.jobId || error.status || failures >= TRIES) throw understood(error);
        await this.#requireNotFailed();
        this.dispatchEvent(new Event("broken"));
        await pause(Math.min(8, 2 ** (failures - 1)), signal);
      }
    }
    this.total = this.seconds;
    this.#cancel.abort(); // the progress of a finished text
  }

  async #start(reference) {
    const { signal } = this.#cancel;
    const recorded = reference && { reference_audio_base64: reference };
    const answer = await send("generate", { json: { ...this.body, ...recorded, stream: true }, signal });
    this.jobId = answer.headers.get("X-Job-ID") ?? "";
    if (this.jobId) this.#watch();
    return { answer, format: this.body.response_format };
  }

  /** Ask for what is missing: samples from the last one on, or a compressed file as a whole. */
  async #resume(format) {
    this.#watch();
    const raw = format === "wav" || format === "pcm";
    const query = raw ? `response_format=pcm&start=${this.recording.seconds}` : `response_format=${format}`;
    const { signal } = this.#cancel;
    const answer = await send(`generate/jobs/${encodeURIComponent(this.jobId)}/audio?${query}`, { signal });
    this.dispatchEvent(new Event("resumed"));
    return { answer, format: raw ? "pcm" : format };
  }

  /** Throw what the server says of a text that it has given up. */
  async #requireNotFailed() {
    const { signal } = this.#cancel;
    const answer = await send(`generate/jobs/${encodeURIComponent(this.jobId)}`, { signal }).catch(() => null);
    const job = await answer?.json();
    if (job?.state === "failed") {
      throw new RequestError(job.error, { hint: "What is made is kept: Continue in the history tries the rest again." });
    }
  }

  async #watch() {
    if (this.#watching) return;
    this.#watching = true;
    const { signal } = this.#cancel;
    try {
      const { body } = await send(`generate/jobs/${encodeURIComponent(this.jobId)}/events`, { signal });
      for await (const job of events(body)) {
        this.job = job;
        this.dispatchEvent(new Event("progress"));
      }
    } catch {
      // the sound says what is wrong; progress alone is no reason to stop
    } finally {
      this.#watching = false;
    }
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value.replaceAll("\r", "")).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

function understood(error) {
  if (error instanceof RequestError) return error;
  if (error instanceof TypeError) {
    return new RequestError("The connection broke before the end.", { hint: "What has arrived can be played. Try again." });
  }
  return new RequestError(`The sound cannot be read: ${error.message}`);
}

function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
