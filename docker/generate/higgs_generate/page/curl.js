/** The request as a line for a shell. The API key is never in it: the shell has it in a variable. */

const LONGEST_ARGUMENT = 100_000; // Linux takes 131,072 bytes for one argument

const EXTENSION = { pcm: "pcm", wav: "wav", mp3: "mp3", flac: "flac", opus: "opus", aac: "aac" };

/** Return the file name for a format. */
export function fileName(format) {
  return `speech.${EXTENSION[format] ?? "bin"}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * Return the command that repeats a request.
 *
 * @param body the request, without the recording itself.
 * @param options `url`; `reference`: whether `reference.wav` goes with it; `key`: whether the server
 *   wants a key.
 */
export function curlLine(body, { url, reference, key }) {
  const plain = Object.fromEntries(Object.entries(body).filter(([name]) => name !== "stream"));
  const json = JSON.stringify(plain);
  const curl = [
    `curl -sS --fail-with-body ${url}`,
    ...(key ? [`-H "Authorization: Bearer $HIGGS_API_KEY"`] : []),
    "-H 'Content-Type: application/json'",
    `-o ${fileName(body.response_format)}`,
  ];
  const line = (...more) => [...curl, ...more].join(" \\\n  ");
  if (reference) {
    const start = quoted(`${json.slice(0, -1)},"reference_audio_base64":"`);
    return `{ printf %s ${start}; base64 < reference.wav | tr -d '\\n'; printf %s '"}'; } |\n  ${line("-d @-")}`;
  }
  if (new TextEncoder().encode(json).length > LONGEST_ARGUMENT) {
    return `printf %s ${quoted(json)} |\n  ${line("-d @-")}`;
  }
  return line(`-d ${quoted(json)}`);
}
