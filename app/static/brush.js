// Tokens brushed away in Explore: marked over the pictures, by pointer or by Shift with the arrow
// keys, and handed to the server as text once a stroke has ended. Lives in the bar below the
// pictures; whatever HTML is replaced, the marks stay, until another look has a bar of its own.
const host = element.closest('#explore-result');
const marks = { look: '', rows: 1, cols: 1, gone: new Set(), past: [], on: false };
const ARROWS = ['ArrowUp', 'ArrowDown', 'ArrowLeft', 'ArrowRight'];
const PAUSE_MS = 250;
const bar = () => element.querySelector('.sl-brush');
const pictures = () => [...host.querySelectorAll('#maps .sl-zoomed')];

// Text and marks: the grid, then a bit a token, row by row, four a digit.
function written(gone) {
  let digits = '';
  for (let at = 0; at < marks.rows * marks.cols; at += 4) {
    digits += [0, 1, 2, 3].reduce((sum, bit) => sum * 2 + gone.has(at + bit), 0).toString(16);
  }
  return `${marks.rows}x${marks.cols}:${digits}`;
}
function read(text) {
  const gone = new Set();
  [...text.split(':')[1]].forEach((digit, place) => {
    for (let bit = 0; bit < 4; bit++) if ((parseInt(digit, 16) >> (3 - bit)) & 1) gone.add(4 * place + bit);
  });
  return gone;
}

// Stripes over what is gone, in every picture, and the bar's words.
function paint() {
  const square = (at) => `M${at % marks.cols} ${Math.floor(at / marks.cols)}h1v1h-1z`;
  const path = [...marks.gone].map(square).join('');
  pictures().forEach((picture, number) => {
    let svg = picture.querySelector('.sl-gone');
    if (!svg) {
      svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      svg.classList.add('sl-gone');
      svg.setAttribute('preserveAspectRatio', 'none');
      svg.setAttribute('aria-hidden', 'true');
      svg.innerHTML =
        `<pattern id="sl-stripes-${number}" width="0.4" height="0.4" patternUnits="userSpaceOnUse"` +
        ' patternTransform="rotate(45)"><rect width="0.4" height="0.4"/><rect class="sl-stripe" width="0.12"' +
        ` height="0.4"/></pattern><path fill="url(#sl-stripes-${number})"/>`;
      picture.insertBefore(svg, picture.querySelector('.sl-cell'));
    }
    svg.setAttribute('viewBox', `0 0 ${marks.cols} ${marks.rows}`);
    svg.querySelector('path').setAttribute('d', path);
  });
  host.classList.toggle('sl-brushing', marks.on);
  const shown = marks.on || marks.gone.size > 0;
  for (const button of element.querySelectorAll('[data-brush]')) {
    const what = button.dataset.brush;
    if (what === 'on') button.setAttribute('aria-pressed', marks.on);
    else if (what !== 'object') button.hidden = !shown;
    if (what === 'undo') button.disabled = !marks.past.length;
    if (what === 'clear') button.disabled = !marks.gone.size;
  }
  const words = element.querySelector('output');
  if (!words) return;
  const all = marks.rows * marks.cols;
  words.textContent = marks.gone.size ? `${marks.gone.size} of ${all} tokens brushed away` : marks.on ? words.dataset.hint : '';
}

let waiting = null;
function send() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const box = document.querySelector('#brush-marks textarea, #brush-marks input');
    const text = marks.gone.size ? written(marks.gone) : '';
    if (!box || box.value === text) return;
    box.value = text;
    box.dispatchEvent(new Event('input', { bubbles: true }));
  }, PAUSE_MS);
}
// One step that Undo takes back.
function change(gone) {
  marks.past.push(marks.gone);
  marks.gone = gone;
  paint();
  send();
}

// The token of a place in a picture, as shares of its width and height; null beside it.
function tokenAt([x, y]) {
  if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
  return Math.floor(y * marks.rows) * marks.cols + Math.floor(x * marks.cols);
}
function placeIn(picture, clientX, clientY) {
  const box = picture.getBoundingClientRect();
  return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
}

// A stroke marks; one that begins on a marked token brings tokens back.
let stroke = null;
function begin(event) {
  const stage = marks.on && event.target.closest('#maps .sl-stage');
  if (!stage || event.button !== 0 || !event.isPrimary) return;
  event.preventDefault();
  event.stopPropagation(); // no zoomed picture is moved
  stage.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  const picture = stage.querySelector('.sl-zoomed');
  const place = placeIn(picture, event.clientX, event.clientY);
  const back = marks.gone.has(tokenAt(place));
  marks.past.push(marks.gone);
  marks.gone = new Set(marks.gone);
  stroke = { picture, place, back };
  draw(event);
}
function draw(event) {
  if (!stroke) return;
  const to = placeIn(stroke.picture, event.clientX, event.clientY);
  const by = [to[0] - stroke.place[0], to[1] - stroke.place[1]];
  // Half a token at a time, so that a quick stroke leaves no gaps.
  const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(by[0]) * marks.cols, Math.abs(by[1]) * marks.rows)));
  for (let step = 0; step <= steps; step++) {
    const at = tokenAt([0, 1].map((axis) => stroke.place[axis] + (by[axis] * step) / steps));
    if (at !== null) stroke.back ? marks.gone.delete(at) : marks.gone.add(at);
  }
  stroke.place = to;
  paint();
}
function end() {
  if (!stroke) return;
  stroke = null;
  send();
}
host.addEventListener('pointerdown', begin, true);
host.addEventListener('pointermove', draw, true);
host.addEventListener('pointerup', end, true);
host.addEventListener('pointercancel', end, true);
for (const name of ['click', 'dblclick']) {
  host.addEventListener(name, (event) => {
    if (marks.on && event.target.closest('#maps .sl-stage')) event.stopPropagation(); // pins, zooms nothing
  }, true);
}

// The keyboard's cursor is the viewer's: the frame that it draws says where.
let before = null;
function cursor(stage) {
  const cell = stage.querySelector('.sl-cell');
  if (!cell || cell.hidden) return null;
  const box = cell.getBoundingClientRect();
  return tokenAt(placeIn(stage.querySelector('.sl-zoomed'), (box.left + box.right) / 2, (box.top + box.bottom) / 2));
}
const brushes = (event) => marks.on && event.shiftKey && ARROWS.includes(event.key) && event.target.closest('#maps .sl-stage');
host.addEventListener('keydown', (event) => {
  const stage = brushes(event);
  if (stage) before = cursor(stage);
}, true);
host.addEventListener('keydown', (event) => {
  const stage = brushes(event);
  if (!stage) return;
  const gone = new Set(marks.gone);
  for (const at of [before, cursor(stage)]) if (at !== null) gone.add(at);
  if (gone.size > marks.gone.size) change(gone);
});

element.addEventListener('click', (event) => {
  const what = event.target.closest('[data-brush]')?.dataset.brush;
  const all = Array.from({ length: marks.rows * marks.cols }, (_, at) => at);
  if (what === 'on') {
    marks.on = !marks.on;
    paint();
  } else if (what === 'undo' && marks.past.length) {
    marks.gone = marks.past.pop();
    paint();
    send();
  } else if (what === 'invert') change(new Set(all.filter((at) => !marks.gone.has(at))));
  else if (what === 'clear') change(new Set());
  else if (what === 'object') change(read(bar().dataset.outside));
});

// Another layer or map is drawn: the marks go over it. Another look: they go.
new MutationObserver(() => {
  if (pictures().some((picture) => !picture.querySelector('.sl-gone'))) paint();
}).observe(host, { childList: true, subtree: true });
function begun() {
  const { look, rows, cols } = bar()?.dataset ?? {};
  if (!look) return;
  if (look !== marks.look) {
    clearTimeout(waiting);
    stroke = null;
    Object.assign(marks, { look, rows: Number(rows), cols: Number(cols), gone: new Set(), past: [] });
  }
  paint();
}
watch('value', begun);
begun();
