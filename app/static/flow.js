// The flow view: whom the token pointed at hears, and who hears it, drawn over the photos of the
// viewer #maps. All is worked out here, from one layer's numbers, so that a move of the pointer asks no
// server; where those would be too many, the server is asked for the token that is clicked.
// Each token's parts are those of the library's `Flow.received` and `Flow.sent` (Parts.signed).
//
// Runs once, on the card that holds the numbers. It tells `sl-flow` {token, query, key} whenever it has
// drawn, where query and key hold what is heard from each token of the keys, and by each of the queries.
let on = false; // whether Flow is chosen
let flow = null; // the layer's numbers, or its one answer, or why it has none
let asked = null; // what the server was asked for last: a look's layer, or one token of it
let refused = null; // what it was asked for in vain
let pointed = { row: null }; // the viewer's token
let atRest = null; // what is shown while none is pointed at: 'class', or null for the loudest
let drawn = ''; // what is drawn, so that a move within a token draws nothing

const card = () => element.querySelector('.sl-flow');
const maps = () => document.getElementById('maps');
const viewer = () => maps().querySelector('.sl-viewer');
const figure = (side) => maps().querySelector(`.sl-figure[data-side="${side}"]`);
// A coarser grid's token is the one that it lies under, as `Flow.key_under` has it; odd grids differ there.
const onGrid = (index, from, to) =>
  Math.min(to - 1, Math.floor(((to < from ? index : index + 0.5) * to) / from));
const OTHER = { query: 'key', key: 'query' };

// --- What came from the server ---

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);

/** Half-precision numbers, by head, times the scale of each. */
function halves(text, scales) {
  const raw = new Uint16Array(bytes(text).buffer);
  const each = raw.length / scales.length;
  return Float32Array.from(raw, (bits, at) => half(bits) * scales[Math.floor(at / each)]);
}
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

function read() {
  const data = card()?.dataset;
  if (!data) return null;
  const about = JSON.parse(data.about);
  if (about.answer) {
    return { ...about, signed: { query: floats(data.query), key: floats(data.key) } };
  }
  if (!about.scales) return about; // no flow
  return {
    ...about,
    query: halves(data.query, about.scales.query),
    key: halves(data.key, about.scales.key),
    valueNorm: halves(data.valueNorm, about.scales['value-norm']),
    rowTotals: data.rowTotals ? floats(data.rowTotals) : null,
  };
}

// --- Parts ---

/**
 * One token's parts: Σ_heads w·‖vW_O‖ for each token on the other side, and how much of all heads'
 * weights is negative. Of `side` query it is what the token at `index` receives; of key, what it sends.
 */
function parts(side, index, heads) {
  const { query, key, valueNorm, rowTotals, width, tokens } = flow;
  const signed = new Float32Array(tokens[OTHER[side]]);
  let size = 0;
  let negative = 0;
  for (const head of heads) {
    const queries = head * tokens.query;
    const keys = head * tokens.key;
    for (let other = 0; other < signed.length; other++) {
      const i = queries + (side === 'query' ? index : other);
      const j = keys + (side === 'query' ? other : index);
      let weight = 0;
      for (let c = 0, q = i * width, k = j * width; c < width; c++) weight += query[q + c] * key[k + c];
      if (rowTotals) weight = Math.exp(weight - rowTotals[i]);
      size += Math.abs(weight);
      if (weight < 0) negative -= weight;
      signed[other] += weight * valueNorm[j];
    }
  }
  return { signed, negative: size ? negative / size : 0 };
}

/** The parts of a token, {row, col} on the queries' grid or 'class': received by it, and sent. */
function bothParts(token) {
  if (flow.answer) {
    const { negative } = flow.answer;
    return {
      query: { signed: flow.signed.query, negative: negative.query },
      key: { signed: flow.signed.key, negative: negative.key },
    };
  }
  const chosen = Number(viewer().dataset.head);
  const heads = chosen ? [chosen - 1] : [...Array(flow.heads).keys()];
  const found = {};
  for (const side of ['query', 'key']) {
    const at = placeOn(side, token);
    const [rows, cols] = flow.grids[side];
    const index = at ? flow.tokens[side] - rows * cols + at.row * cols + at.col : flow.classRow;
    found[side] = parts(side, index, heads);
  }
  return found;
}

/** Row and column of the token on one of the two grids; null for the class token. */
function placeOn(side, token) {
  if (token === 'class') return null;
  const [rows, cols] = flow.grids[side];
  return { row: onGrid(token.row, token.rows, rows), col: onGrid(token.col, token.cols, cols) };
}

// --- Pictures ---

// ColorBrewer's RdBu, blue first: readable for those who do not tell red from green. Without its two
// ends, which are as dark as a photo may be.
const STOPS = [
  [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
  [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43],
];
const GRADIENT = `linear-gradient(to right,${STOPS.map((rgb) => `rgb(${rgb})`)})`;
const SHADES = 255; // on either side of zero
// As an ImageData has them, alpha last: the less a part is, the more of the photo is seen.
const COLORS = new Uint32Array(2 * SHADES + 1);
const coloring = new Uint8Array(COLORS.buffer);
for (let at = 0; at < COLORS.length; at++) {
  const stop = (at / (COLORS.length - 1)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(stop));
  const mix = (c) => STOPS[low][c] + (STOPS[low + 1][c] - STOPS[low][c]) * (stop - low);
  const share = Math.abs(at / SHADES - 1);
  coloring.set([mix(0), mix(1), mix(2), 255 * (0.25 + 0.75 * Math.sqrt(share))], 4 * at);
}

/** Draws parts on the patches' tiles, zero in the middle of the colours; returns the scale's end. */
function paint(canvas, signed, [rows, cols]) {
  const first = signed.length - rows * cols;
  let most = 0;
  for (let at = first; at < signed.length; at++) most = Math.max(most, Math.abs(signed[at]));
  if (canvas.width !== cols) canvas.width = cols;
  if (canvas.height !== rows) canvas.height = rows;
  const picture = new ImageData(cols, rows);
  const pixels = new Uint32Array(picture.data.buffer);
  const shade = most ? SHADES / most : 0;
  for (let at = 0; at < pixels.length; at++) {
    pixels[at] = COLORS[SHADES + Math.round(signed[first + at] * shade)];
  }
  canvas.getContext('2d').putImageData(picture, 0, 0);
  return most;
}

function amount(part) {
  const size = Math.abs(part);
  if (size === 0) return '0';
  return size < 0.001 ? size.toExponential(1) : size.toPrecision(3);
}
const place = (at) => (at ? `row ${at.row + 1}, column ${at.col + 1}` : 'the class token');

/** The token that a part is of, by its number: one before the patches is told by its kind. */
function named(index, side) {
  const [rows, cols] = flow.grids[side];
  const patch = index - (flow.tokens[side] - rows * cols);
  if (patch >= 0) return place({ row: Math.floor(patch / cols), col: patch % cols });
  return index === flow.classRow ? place(null) : 'a token that is no patch';
}

/** What the token hears, or who hears it, in a sentence. */
function line(side, token, { signed, negative }) {
  let most = 0;
  for (let at = 1; at < signed.length; at++) {
    if (Math.abs(signed[at]) > Math.abs(signed[most])) most = at;
  }
  const who = place(placeOn(side, token));
  const does = `${signed[most] < 0 ? 'subtracts' : 'adds'} ${amount(signed[most])}`;
  const whom = `${named(most, OTHER[side])} (${does})`;
  const share = negative ? `${Math.round(100 * negative)} %` : 'nothing';
  const parts = Number(viewer().dataset.head) ? 'its parts, over all heads,' : 'its parts';
  const sum = flow.error ? `; ${parts} add up to the output within ${flow.error}` : '';
  const said = side === 'query'
    ? `hears most from ${whom}; ${share} subtracts${sum}.`
    : `is heard most by ${whom}; ${share} of what it sends subtracts.`;
  const held = pointed.pinned && token !== 'class' && (token === pointed || flow.answer);
  const pinned = held ? ' Pinned: Escape, or the same token again, lets go.' : '';
  return `${who[0].toUpperCase()}${who.slice(1)} ${said}${pinned}`;
}

/** What flow adds to the two figures, put there anew where the viewer has replaced its HTML. */
function decorate() {
  for (const side of ['query', 'key']) {
    if (figure(side).querySelector('.sl-flow-part')) continue;
    const added = element.querySelector(`[data-part="${side}"]`).cloneNode(true);
    added.querySelector('.sl-gradient').style.background = GRADIENT;
    const canvas = document.createElement('canvas');
    canvas.className = 'sl-flow-map sl-flow-part';
    canvas.role = 'img';
    canvas.ariaLabel = side === 'query' ? 'Whom this token hears' : 'Who hears this token';
    const cell = document.createElement('div');
    cell.className = 'sl-flow-cell sl-flow-part';
    // At the end of what is there: whatever stands before keeps its place when Gradio renders anew.
    figure(side).querySelector('.sl-zoomed').append(canvas, cell);
    figure(side).append(...added.children);
  }
}

function draw() {
  const token = current();
  const { look, layer, head } = viewer().dataset;
  const at = token === 'class' ? [token] : [token.row, token.col, token.rows, token.cols];
  const what = [look, layer, head, ...at, pointed.pinned].join();
  if (what === drawn && figure('key').querySelector('.sl-flow-part')) return;
  decorate();
  const found = bothParts(token);
  for (const side of ['query', 'key']) {
    const one = figure(side);
    const [rows, cols] = flow.grids[side];
    const canvas = one.querySelector('.sl-flow-map');
    const most = paint(canvas, found[side].signed, flow.grids[OTHER[side]]);
    const spot = placeOn(side, token);
    const cell = one.querySelector('.sl-flow-cell');
    cell.hidden = !spot;
    if (spot) {
      const [left, top] = [(100 * spot.col) / cols, (100 * spot.row) / rows];
      cell.style.cssText = `left:${left}%;top:${top}%;width:${100 / cols}%;height:${100 / rows}%`;
    }
    one.querySelector('.sl-flow-low').textContent = `−${amount(most)} subtracts`;
    one.querySelector('.sl-flow-high').textContent = `adds +${amount(most)}`;
    one.querySelector('.sl-flow-line').textContent = line(side, token, found[side]);
  }
  drawn = what;
  const detail = { token, query: found.query.signed, key: found.key.signed };
  maps().dispatchEvent(new CustomEvent('sl-flow', { detail }));
}

// --- What is shown, and what is asked for ---

/** The token to show: the one pointed at or pinned, else the one at rest; of an answer, its own. */
function current() {
  const [rows, cols] = flow.grids.query;
  const patch = ([row, col]) => ({ row: row - 1, col: col - 1, rows, cols }); // counted from 1
  if (flow.answer) return flow.answer.token === 'class' ? 'class' : patch(flow.answer.token);
  if (pointed.row !== null) return pointed;
  return atRest ?? patch(flow.rest);
}

/** The token whose answer is wanted, as the server takes it: counted from 1. */
function wanted() {
  const { token } = flow.answer;
  if (!pointed.pinned) return atRest ?? (token === 'class' ? flow.rest : token);
  const { row, col } = placeOn('query', pointed);
  return [row + 1, col + 1];
}

/** Ask the server, but never twice in a row for the same: what it refuses, it would refuse again. */
function ask(what, event, data) {
  if (asked === what) return;
  asked = what;
  trigger(event, data);
}

/** What the style sheet shows: norms, flow, no-flow (the card alone) or waiting. */
function show(view) {
  const area = document.getElementById('explore-result');
  if (area.dataset.view !== view) area.dataset.view = view;
}

/** Whether the numbers are those of the look and layer on show. */
function fits() {
  const { look, layer } = viewer().dataset;
  return flow?.look === look && String(flow.layer) === layer;
}

function refresh() {
  if (!viewer()) return show('norms'); // a sentence stands in the pictures' place
  const { look, layer, head } = viewer().dataset;
  if (!on || !look) { // or another map is on show, which goes
    viewer().removeAttribute('data-rest');
    return show('norms');
  }
  if (!fits()) {
    const what = [look, layer].join();
    show(refused === what ? 'norms' : 'waiting');
    return ask(what, 'submit');
  }
  if (!flow.grids) return show('no-flow');
  if (flow.answer) {
    const token = wanted();
    if (String(flow.answer.token) !== String(token) || String(flow.answer.head) !== head) {
      ask([look, layer, head, token].join(), 'select', { token });
    }
  }
  show('flow');
  draw();
  const token = current();
  if (token === 'class') viewer().removeAttribute('data-rest');
  else viewer().dataset.rest = JSON.stringify(token);
  element.querySelector('.sl-flow-class')?.setAttribute('aria-pressed', String(token === 'class'));
}

document.addEventListener('sl-view', (event) => {
  on = event.detail;
  asked = refused = null;
  refresh();
});
document.addEventListener('sl-refused', () => {
  refused = asked;
  refresh();
});
document.addEventListener('sl-drawn', (event) => {
  if (on && maps().contains(event.target)) refresh();
});
document.addEventListener('sl-token', (event) => {
  if (!maps().contains(event.target)) return;
  pointed = event.detail;
  if (pointed.pinned) atRest = null;
  if (on) refresh();
});
element.addEventListener('click', (event) => {
  if (!event.target.closest('.sl-flow-class')) return;
  atRest = atRest ? null : 'class';
  viewer().dispatchEvent(new CustomEvent('sl-leave', { bubbles: true }));
});
watch('value', () => {
  flow = read();
  drawn = '';
  refresh();
});
