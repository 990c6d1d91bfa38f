/** Draw sound: bars for what is there, dots for what is expected, a ruler of seconds below. */

const BAR = 3;
const SPACE = 2;
const RULER = 20;

/**
 * Draw a waveform into a canvas.
 *
 * @param canvas its size on the page decides.
 * @param peaks loudest sample of each moment, 0 to 1.
 * @param seconds duration of the peaks.
 * @param options `span`: seconds that the width stands for; `at`: seconds already played;
 *   `ruler`: whether to draw seconds.
 */
export function drawWave(canvas, peaks, seconds, { span = seconds, at = 0, ruler = true } = {}) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const style = getComputedStyle(canvas);
  const color = (name) => style.getPropertyValue(name);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);

  const room = height - (ruler ? RULER : 0);
  const middle = room / 2;
  const bars = Math.floor((width + SPACE) / (BAR + SPACE));
  const there = span ? seconds / span : 0;
  for (let bar = 0; bar < bars; bar += 1) {
    const x = bar * (BAR + SPACE);
    if ((bar + 0.5) / bars >= there) {
      pen.fillStyle = color("--line");
      pen.fillRect(x, middle - 1, BAR, 2);
      continue;
    }
    const from = Math.floor((bar / bars / there) * peaks.length);
    const to = Math.min(peaks.length, Math.max(from + 1, Math.ceil(((bar + 1) / bars / there) * peaks.length)));
    let peak = 0;
    for (let i = from; i < to; i += 1) peak = Math.max(peak, peaks[i]);
    const tall = Math.max(2, Math.sqrt(peak) * (room - 4));
    pen.fillStyle = color((bar + 0.5) / bars <= at / span ? "--accent" : "--edge");
    pen.beginPath();
    pen.roundRect(x, middle - tall / 2, BAR, tall, 1.5);
    pen.fill();
  }
  if (ruler && span) drawRuler(pen, span, width, height, color("--muted"));
}

function drawRuler(pen, span, width, height, color) {
  const most = Math.max(2, Math.floor(width / 70));
  const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((x) => span / x <= most) ?? 7200;
  pen.fillStyle = color;
  pen.font = "11px system-ui, sans-serif";
  for (let second = 0; second < span; second += step) {
    const x = (second / span) * width;
    pen.fillRect(x, height - RULER + 3, 1, 4);
    if (x + 28 < width) pen.fillText(clock(second, step < 1), x + 3, height - 3);
  }
}

/** Return seconds as minutes and seconds, with hours where there are any, and with tenths if wanted. */
export function clock(seconds, exact = true) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  const whole = Math.floor(tenths / 10);
  const two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  const front = minutes < 60 ? minutes : `${Math.floor(minutes / 60)}:${two(minutes % 60)}`;
  return `${front}:${two(whole % 60)}${exact ? `.${tenths % 10}` : ""}`;
}
