/** The form: its fields as a request, a request as its fields, and what is wrong with a field. */

const by = (id) => document.getElementById(id);

const TEXTS = ["scene"];
const NUMBERS = ["seed", "speed", "top_p", "top_k", "max_tokens"];
const FIELDS = ["text", "voice", "reference_audio_base64", "reference_text", "temperature", "response_format", ...TEXTS, ...NUMBERS];
export const OWN = ""; // the voice of the user's own recording

/** Return the request that the form describes, without the recording. */
export function request() {
  const body = { text: by("text").value, temperature: Number(by("temperature").value), response_format: by("response_format").value };
  const voice = chosenVoice();
  if (voice !== OWN) body.voice = voice;
  else if (by("reference_text").value.trim()) body.reference_text = by("reference_text").value.trim();
  for (const name of TEXTS) if (by(name).value.trim()) body[name] = by(name).value.trim();
  for (const name of NUMBERS) {
    const text = by(name).value.trim();
    if (text) body[name] = Number.isFinite(Number(text)) ? Number(text) : text;
  }
  return body;
}

/** Put a request into the form. */
export function fill(body) {
  for (const name of ["text", "reference_text", ...TEXTS, ...NUMBERS]) by(name).value = body[name] ?? "";
  by("temperature").value = body.temperature ?? 0.5;
  by("response_format").value = body.response_format ?? "wav";
  const radio = [...document.querySelectorAll("input[name=voice]")].find((one) => one.value === (body.voice ?? OWN));
  if (radio) radio.checked = true;
  if (["speed", "top_p", "top_k", "max_tokens"].some((name) => body[name] !== undefined)) by("more").open = true;
  by("form").dispatchEvent(new Event("input"));
}

/** Offer the formats that the service has, in its order. */
export function offerFormats(names) {
  const select = by("response_format");
  const labels = Object.fromEntries([...select.options].map((one) => [one.value, one.textContent]));
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(labels[name] ?? name.toUpperCase(), name)));
  if (names.includes(chosen)) select.value = chosen;
}

export function chosenVoice() {
  return document.querySelector("input[name=voice]:checked")?.value;
}

/** Return the element of a field of the request, or null. */
function element(field) {
  if (field === "voice") return document.querySelector("input[name=voice]:checked");
  if (field === "reference_audio_base64") return by("reference-file");
  return FIELDS.includes(field) ? by(field) : null;
}

/** Mark a field as wrong and go there; return whether the form has such a field. */
export function blame(field, message) {
  const name = field?.replace(/^ref_audio$|^reference_audio$/, "reference_audio_base64").replace(/^ref_text$/, "reference_text").replace(/^input$/, "text");
  const target = element(name);
  if (!target) return false;
  const note = document.createElement("p");
  note.className = "problem";
  note.id = `problem-${name}`;
  note.textContent = message;
  target.setAttribute("aria-invalid", "true");
  target.setAttribute("aria-describedby", `${target.getAttribute("aria-describedby") ?? ""} ${note.id}`.trim());
  const place = target.closest(".pair, ul") ?? target;
  place.after(note);
  const details = target.closest("details");
  if (details) details.open = true;
  target.focus();
  return true;
}

/** Take all marks away. */
export function blameNone() {
  for (const note of document.querySelectorAll(".problem")) {
    const target = document.querySelector(`[aria-describedby~="${note.id}"]`);
    const rest = target?.getAttribute("aria-describedby").split(" ").filter((id) => id !== note.id).join(" ");
    if (rest) target.setAttribute("aria-describedby", rest);
    else target?.removeAttribute("aria-describedby");
    target?.removeAttribute("aria-invalid");
    note.remove();
  }
}
