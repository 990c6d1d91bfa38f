/** What the page shows of a request: times, progress, download, curl line. */

import { apiKey } from "./api.js";
import { curlLine, fileName } from "./curl.js";
import { count } from "./text.js";
import { clock } from "./waveform.js";

const by = (id) => document.getElementById(id);
let addresses = []; // of files that can be downloaded; they hold memory until they are revoked

export function showFigures({ first, total, seconds }) {
  const text = (value, unit = " s") => (value === undefined || value === null ? "–" : `${value.toFixed(2)}${unit}`);
  by("first-sound").textContent = text(first);
  by("total").textContent = text(total);
  by("sound").textContent = text(seconds);
  by("factor").textContent = text(total && seconds ? total / seconds : undefined, "");
}

export function showProgress(made) {
  const { pieces, pieces_done: done = 0, characters = 0, characters_done: said = 0 } = made.job;
  if (!pieces) return;
  by("progress-row").hidden = false;
  by("progress").max = pieces;
  by("progress").value = done;
  const rest = said ? (made.seconds / said) * (characters - said) : 0;
  by("progress-text").textContent = [
    `Piece ${Math.min(done + 1, pieces)} of ${pieces}`,
    `${count(said)} of ${count(characters)} characters`,
    ...(rest > 5 ? [`about ${clock(rest, false)} left`] : []),
  ].join(" · ");
}

export function showResult(take) {
  by("actions").hidden = false;
  const url = new URL("generate", document.baseURI).href;
  by("curl-line").textContent = curlLine(take.body, { url, reference: Boolean(take.reference), key: Boolean(apiKey.get()) });
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  offer(by("download"), null);
  offer(by("download-reference"), take.reference);
}

export function showDownload(take, recording) {
  const { response_format: format } = take.body;
  by("download").download = fileName(format);
  const file = take.file ?? (format === "pcm" ? recording.pcm() : format === "wav" ? recording.wav() : null);
  offer(by("download"), recording.length ? file : null);
}

function offer(link, blob) {
  link.hidden = !blob;
  if (!blob) return;
  link.href = URL.createObjectURL(blob);
  addresses.push(link.href);
}

