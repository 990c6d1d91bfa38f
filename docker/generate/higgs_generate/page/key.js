/** The dialog that asks for the API key. */

import { apiKey } from "./api.js";

const by = (id) => document.getElementById(id);
let asking = null;

/** Ask for the key; resolves to whether one was given. Requests that fail together ask once. */
export function askForKey(wrong = false, reason = wrong ? "The server does not accept this key." : "The server asks for its API key.") {
  asking ??= new Promise((resolve) => {
    const dialog = by("key-dialog");
    by("key-reason").textContent = reason;
    by("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use";
      if (given) apiKey.set(by("key").value.trim());
      by("key").value = "";
      showKeyState();
      asking = null;
      resolve(given && apiKey.get() !== "");
    }, { once: true });
    dialog.showModal();
    by("key").focus();
  });
  return asking;
}

/** Prepare the dialog and the button that opens it, or forgets the key. */
export function prepareKey() {
  by("key-cancel").addEventListener("click", () => by("key-dialog").close(""));
  by("key-button").addEventListener("click", () => {
    if (!apiKey.get()) {
      askForKey(false, "If the server has an API key, enter it here.");
      return;
    }
    apiKey.set("");
    showKeyState();
  });
  showKeyState();
}

function showKeyState() {
  by("key-button").textContent = apiKey.get() ? "Forget the key" : "API key";
}
