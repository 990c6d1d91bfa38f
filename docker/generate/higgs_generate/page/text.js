/** Texts and numbers for people. */

/** Return how long the speech of a text is likely to be. */
export function expectedSeconds(text) {
  const dense = (text.match(/[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]/g) ?? []).length;
  return dense / 4.5 + (text.length - dense) / 15 + 0.5;
}

/** Return a message with a capital letter. */
export function sentence(message) {
  return message.charAt(0).toUpperCase() + message.slice(1);
}

/** Return a number with separators. */
export function count(number) {
  return number.toLocaleString("en");
}
