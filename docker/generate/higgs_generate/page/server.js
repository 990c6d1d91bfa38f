/** The state of the server, in the top line. */

import { send } from "./api.js";

const by = (id) => document.getElementById(id);
const OFTEN = 3000;
const SELDOM = 20_000;

/** Ask for the state again and again; `onReady(limits)` is called each time that it becomes ready. */
export function watchServer(onReady) {
  let ready = false;
  const ask = async () => {
    let health = { status: "down", reason: "server unreachable" };
    try {
      health = await (await send("health", { asks: false })).json();
    } catch {
      // shown as unreachable
    }
    const ok = health.status === "ok";
    by("server").dataset.state = ok ? "ok" : "down";
    by("server").textContent = ok ? "ready" : health.reason || "not ready";
    if (ok && !ready) onReady(health);
    ready = ok;
    setTimeout(ask, ok || document.hidden ? SELDOM : OFTEN);
  };
  ask();
}
