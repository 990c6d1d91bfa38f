/** What this browser has made, in IndexedDB. */

const NAME = "higgs-page";
const MOST = 100;

let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("takes", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function ask(mode, what) {
  const transaction = (await database()).transaction("takes", mode);
  const request = what(transaction.objectStore("takes"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Return all takes, newest first. */
export async function takes() {
  return (await ask("readonly", (store) => store.getAll())).reverse();
}

/** Keep a take; the oldest ones go when there are too many. Its id is the time in ms. */
export async function keep(take) {
  await ask("readwrite", (store) => store.put(take));
  const ids = await ask("readonly", (store) => store.getAllKeys());
  for (const id of ids.slice(0, -MOST)) await forget(id);
}

export function forget(id) {
  return ask("readwrite", (store) => store.delete(id));
}

export function forgetAll() {
  return ask("readwrite", (store) => store.clear());
}
