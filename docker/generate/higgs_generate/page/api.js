/** Requests to the service, their errors, and the API key of this tab. */

const KEY = "higgs-api-key";

const HINTS = {
  0: "Check that the server runs and that this device is online.",
  401: "Enter the API key that the server was started with.",
  404: "The server no longer has it: start again.",
  413: "Shorten the text, or send a shorter recording.",
  429: "The server is busy. Try again in a moment.",
  502: "The service runs, but the speech server behind it does not answer.",
  503: "The speech server is starting or stopping. Try again in a moment.",
  504: "The speech server took too long. Try again, or send a shorter text.",
};

/** A request that was refused or failed: what is wrong, what to do, and the field to blame. */
export class RequestError extends Error {
  constructor(message, { status = 0, hint = "", field = "", retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.field = field;
    this.retryAfter = retryAfter;
    this.hint = hint || HINTS[status] || (status >= 500 ? "Try again; the server's log has the reason." : "");
  }
}

/** The API key: in sessionStorage only, so it ends with the tab. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

let askForKey = async () => false;

/** Set what asks for the key after a 401: a function that resolves to whether one was given. */
export function onMissingKey(ask) {
  askForKey = ask;
}

/**
 * Send a request and return the response, once its status is good.
 *
 * A 401 asks for the key and repeats the request. Throws RequestError, or AbortError if cancelled.
 */
export async function send(path, { json, signal, headers = {}, method, asks = true } = {}) {
  for (;;) {
    const key = apiKey.get();
    const response = await attempt(path, {
      method: method ?? (json ? "POST" : "GET"),
      signal,
      cache: "no-store",
      body: json && JSON.stringify(json),
      headers: {
        ...(json && { "Content-Type": "application/json" }),
        ...(key && { Authorization: `Bearer ${key}` }),
        ...headers,
      },
    });
    if (response.ok) return response;
    if (response.status === 401 && asks) {
      await response.body?.cancel();
      if (await askForKey(Boolean(key))) continue;
    }
    throw await refused(response);
  }
}

async function attempt(path, options) {
  try {
    return await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server cannot be reached.");
  }
}

async function refused(response) {
  const { status } = response;
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const text = await response.text().catch(() => "");
  let error;
  try {
    ({ error } = JSON.parse(text));
  } catch {
    error = undefined; // a proxy in between answers in HTML
  }
  const message = error?.message || `The server answered ${status} ${response.statusText}`.trim();
  return new RequestError(message, { status, hint: error?.hint, field: error?.param, retryAfter });
}
