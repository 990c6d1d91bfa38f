/** The page: connects the form, the request, the player and the history. */

import { apiKey, onMissingKey, send } from "./api.js";
import { Deck, setIcon } from "./deck.js";
import * as history from "./history.js";
import { askForKey, prepareKey } from "./key.js";
import { Player } from "./player.js";
import { Reference } from "./reference.js";
import { watchServer } from "./server.js";
import { blame, blameNone, chosenVoice, fill, offerFormats, OWN, request } from "./settings.js";
import { Speech } from "./speech.js";
import { showDownload, showFigures, showProgress, showResult } from "./result.js";
import { soundOf, TakeList } from "./takes.js";
import { count, expectedSeconds, sentence } from "./text.js";
import { showVoices } from "./voices.js";

const by = (id) => document.getElementById(id);
const deck = new Deck();
const reference = new Reference(playAside);
const list = new TakeList({ open, reuse, resume, removed });

let speech = null; // what is being made
let loading = false; // the list of voices
let longest = 200_000;
let again = () => {};

// What is said to a screen reader

function say(text) {
  by("status").textContent = text;
}

function showError(error) {
  if (blame(error.field, sentence(error.message))) return;
  by("error-message").textContent = sentence(error.message);
  const wait = error.retryAfter ? ` The server asks to wait ${error.retryAfter} s.` : "";
  by("error-hint").textContent = `${error.hint}${wait}`;
  by("error").hidden = false;
}

// Previews and the reference, beside the player

const aside = new Player();
let asideButton = null;

function playAside(sound, button) {
  const same = asideButton === button && ["playing", "waiting"].includes(aside.state);
  if (asideButton) setIcon(asideButton, "play");
  aside.load(sound);
  asideButton = null;
  if (same) return;
  deck.player.pause();
  asideButton = button;
  setIcon(button, "stop");
  aside.play();
}

aside.addEventListener("ended", () => setIcon(asideButton, "play"));
deck.player.addEventListener("state", () => {
  if (deck.player.state !== "playing") return;
  if (asideButton && aside.state === "playing") playAside(aside.recording, asideButton);
  if (deck.player.recording === speech?.recording && speech.first === null) {
    speech.heard();
    showFigures({ first: speech.first });
    say("Playing");
  }
});
deck.player.addEventListener("ended", () => deck.draw());

// Making speech

async function start(event) {
  event?.preventDefault();
  if (speech) return;
  deck.player.unlock(); // while the click is handled: later, Safari does not allow it
  const body = request();
  const own = chosenVoice() === OWN;
  clearMessages();
  if (!body.text.trim()) {
    blame("text", "Write what should be said.");
    return;
  }
  if (body.text.length > longest) {
    blame("text", `The text has ${count(body.text.length)} characters; the server takes ${count(longest)}: shorten it.`);
    return;
  }
  if (own && (!reference.sound || reference.problem)) {
    blame("reference_audio_base64", reference.problem || "Choose or record a voice first.");
    return;
  }
  const take = { id: Date.now(), body, reference: own ? reference.sound.wav() : null };
  again = start;
  await make(take, new Speech(body), own ? await reference.base64() : null);
}

async function resume(take) {
  if (speech) return;
  clearMessages();
  again = () => resume(take);
  await make(take, new Speech(take.body, take.jobId), null);
}

async function make(take, made, recorded) {
  speech = made;
  showResult(take);
  setBusy(true);
  deck.load(made.recording, expectedSeconds(take.body.text));
  deck.player.play();
  showFigures({});
  say("Making speech");
  by("result").scrollIntoView({ block: "nearest" });
  made.addEventListener("progress", () => {
    const { characters, characters_done: said, audio_seconds: seconds, pieces, pieces_done: done } = made.job;
    showProgress(made);
    if (said) deck.expected = (seconds / said) * characters;
    if (done && done === Math.ceil(pieces / 2)) say("Half of the text is made");
  });
  made.addEventListener("resumed", () => showProgress(made));
  made.addEventListener("broken", () => {
    by("progress-row").hidden = false;
    by("progress-text").textContent = "The connection broke: connecting again …";
  });
  const remember = setInterval(() => made.jobId && !take.jobId && rememberUnfinished(take, made), 200);
  try {
    await made.run(recorded);
    await finish(take, made);
  } catch (error) {
    made.recording.finish();
    if (error.name === "AbortError") {
      deck.player.pause();
      say("Cancelled");
    } else {
      say("");
      showError(error);
    }
  } finally {
    clearInterval(remember);
    speech = null;
    setBusy(false);
    by("progress-row").hidden = true;
    showDownload(take, made.recording);
    deck.draw();
    await list.show();
  }
}

/** A long text can be continued after a reload. */
async function rememberUnfinished(take, made) {
  Object.assign(take, { jobId: made.jobId, unfinished: true });
  await history.keep(take).catch(() => {});
}

async function finish(take, made) {
  const { recording, file, first, total } = made;
  Object.assign(take, {
    unfinished: false, file, sound: recording.pcm(), peaks: recording.peaks, rate: recording.rate,
    seconds: recording.seconds, first, total,
  });
  showFigures(take);
  say(`Finished: ${recording.seconds.toFixed(1)} seconds of sound in ${total.toFixed(1)} seconds`);
  await history.keep(take).catch((error) => {
    by("history-note").hidden = false;
    by("history-note").textContent = `This take is not kept: ${error?.message ?? "storage is off"}.`;
  });
}

function setBusy(busy) {
  const focused = document.activeElement;
  by("cancel").hidden = !busy;
  by("speak").disabled = busy;
  by("history").inert = busy;
  by("result").setAttribute("aria-busy", String(busy));
  if (busy && focused === by("speak")) by("cancel").focus();
  if (!busy && focused === by("cancel")) by("speak").focus();
}

function clearMessages() {
  blameNone();
  by("error").hidden = true;
}

function open(take) {
  if (speech) return;
  clearMessages();
  const sound = soundOf(take);
  showResult(take);
  showDownload(take, sound);
  showFigures(take);
  deck.load(sound);
  deck.player.play();
}

async function reuse(take) {
  fill(take.body);
  if (take.reference) await reference.use(take.reference);
  by("text").focus();
}

function removed(take) {
  if (take.jobId) send(`generate/jobs/${encodeURIComponent(take.jobId)}`, { method: "DELETE", asks: false }).catch(() => {});
}

// The form

function noteText() {
  const { value } = by("text");
  const seconds = expectedSeconds(value);
  by("text-note").textContent = value.trim()
    ? `${count(value.length)} characters · about ${seconds < 60 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`}`
    : "Any length; long texts are made piece by piece.";
  by("temperature-value").textContent = Number(by("temperature").value).toFixed(2);
  by("reference").hidden = chosenVoice() !== OWN;
  reference.draw();
}

function refused(error) {
  clearMessages();
  again = loadVoices;
  showError(error);
}

async function loadVoices() {
  if (loading) return;
  loading = true;
  clearMessages();
  try {
    await showVoices(playAside, refused);
    noteText();
  } catch (error) {
    refused(error);
  } finally {
    loading = false;
  }
}

by("form").addEventListener("submit", start);
by("form").addEventListener("input", noteText);
by("cancel").addEventListener("click", () => speech?.cancel());
by("retry").addEventListener("click", () => again());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start(event);
  if (event.key === "Escape" && speech && !by("key-dialog").open) speech.cancel();
});
by("copy").addEventListener("click", async () => {
  const text = by("curl-line").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
    by("copy").textContent = "Copied";
    setTimeout(() => (by("copy").textContent = "Copy as curl"), 2000);
  } catch {
    by("curl").open = true; // without https:// there is no clipboard
    getSelection().selectAllChildren(by("curl-line"));
    say("The line is selected");
  }
});
for (const name of ["change", "problem"]) {
  reference.addEventListener(name, () => {
    blameNone();
    if (reference.problem) blame("reference_audio_base64", reference.problem);
  });
}
if (/Mac|iPhone|iPad/.test(navigator.platform)) by("keys").firstElementChild.textContent = "⌘";

prepareKey();
onMissingKey(async (wrong) => {
  const given = await askForKey(wrong);
  if (given && chosenVoice() === undefined) loadVoices(); // an earlier request had no key
  return given;
});
noteText();
deck.draw();
list.show();
watchServer((health) => {
  by("key-button").hidden = !health.api_key_required && !apiKey.get();
  longest = health.limits?.max_characters ?? longest;
  if (health.limits?.formats) offerFormats(health.limits.formats);
  loadVoices();
});
