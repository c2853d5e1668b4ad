// Behaviour of the linked Q̂ and K̂ pictures. Runs once per viewer; the HTML inside may be replaced
// at any time, so events are delegated and elements looked up when they are needed.
//
// For other scripts it tells `sl-token` {row, col, rows, cols, pinned} whenever a token is pointed at
// or left (row is null then), and before that `sl-drawn` where the HTML was replaced; on `sl-leave` it
// lets go of the token. A `data-rest` on .sl-viewer is where keys begin while no token is pointed at.
// The token pointed at, by its row and column on a grid of rows × cols: CvT's keys have a grid of
// their own, on which the token at the same place is meant.
const state = { row: null, col: null, rows: 1, cols: 1, pinned: false };
const onGrid = (index, from, to) => Math.min(to - 1, Math.floor(((index + 0.5) * to) / from));
const figures = () => [...element.querySelectorAll('.sl-figure')];
const number = (x) => (x === 0 ? '0' : Math.abs(x) < 0.001 ? x.toExponential(2) : x.toPrecision(4));

function show(atRow, atCol, grid = { rows: 1, cols: 1 }) {
  Object.assign(state, { row: atRow, col: atCol, rows: grid.rows, cols: grid.cols });
  for (const figure of figures()) {
    const { rows, cols, min, max, flat, signed } = figure.dataset;
    const cell = figure.querySelector('.sl-cell');
    const marker = figure.querySelector('.sl-marker');
    const readout = figure.querySelector('.sl-readout');
    if (atRow === null) {
      cell.hidden = marker.hidden = true;
      readout.textContent = readout.dataset.hint;
      continue;
    }
    const row = onGrid(atRow, grid.rows, rows);
    const col = onGrid(atCol, grid.cols, cols);
    const value = JSON.parse(figure.dataset.norms)[row * cols + col];
    const share = flat === 'true' ? 1 : (value - min) / (max - min);
    cell.hidden = marker.hidden = false;
    cell.style.cssText =
      `left:${(100 * col) / cols}%;top:${(100 * row) / rows}%;width:${100 / cols}%;height:${100 / rows}%`;
    marker.style.left = `${100 * share}%`;
    const meaning = signed !== 'true'
      ? `${Math.round(100 * share)} % of the range`
      : `${value < 0 ? 'against' : 'for'}, ${Math.round(100 * Math.abs(2 * share - 1))} % of the largest`;
    readout.textContent =
      `Row ${row + 1}, column ${col + 1}: ${number(value)} (${meaning})` + (state.pinned ? ' · pinned' : '');
  }
  tell('sl-token', { ...state });
}
function tell(name, detail = null) {
  element.dispatchEvent(new CustomEvent(name, { bubbles: true, detail }));
}
function leave() {
  state.pinned = false;
  show(null, null);
}
element.addEventListener('sl-leave', leave);

function gridOf(stage) {
  const { rows, cols } = stage.closest('.sl-figure').dataset;
  return { rows: Number(rows), cols: Number(cols) };
}
function tokenAt(event) {
  const stage = event.target.closest('.sl-stage');
  if (!stage) return null;
  const { rows, cols } = gridOf(stage);
  const box = stage.querySelector('.sl-zoomed').getBoundingClientRect();
  const at = (offset, length, count) =>
    Math.min(count - 1, Math.max(0, Math.floor((offset / length) * count)));
  return [
    at(event.clientY - box.top, box.height, rows),
    at(event.clientX - box.left, box.width, cols),
    { rows, cols },
  ];
}

element.addEventListener('pointermove', (event) => {
  const token = tokenAt(event);
  if (token && !state.pinned) show(...token);
});
element.addEventListener('pointerout', (event) => {
  if (!state.pinned && event.target.closest('.sl-stage') && !event.relatedTarget?.closest?.('.sl-stage')) {
    show(null, null);
  }
});
element.addEventListener('click', (event) => {
  const token = tokenAt(event);
  if (!token) return;
  const same = token[0] === state.row && token[1] === state.col && token[2].rows === state.rows;
  state.pinned = !(state.pinned && same); // a second click on the same token lets go
  show(...token);
});
element.addEventListener('keydown', (event) => {
  const stage = event.target.closest('.sl-stage');
  if (!stage) return;
  const { rows, cols } = gridOf(stage);
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === 'Escape') {
    leave();
  } else if (step || event.key === 'Enter') {
    event.preventDefault();
    state.pinned = true;
    const rest = element.querySelector('.sl-viewer').dataset.rest;
    const from = state.row === null ? JSON.parse(rest ?? 'null') : state;
    const move = (at, by, had, count) =>
      Math.min(count - 1, Math.max(0, onGrid(at, had, count) + by));
    const [down, right] = from && step ? step : [0, 0]; // the first key only finds the middle
    show(
      from ? move(from.row, down, from.rows, rows) : Math.floor(rows / 2),
      from ? move(from.col, right, from.cols, cols) : Math.floor(cols / 2),
      { rows, cols },
    );
  }
});

// Zoom, the same in every picture: `at` is the point, as a share of the stage, that stays in place.
const zoom = { scale: 1, x: 0, y: 0, drag: null };
function zoomTo(scale, at = [0.5, 0.5]) {
  const to = Math.min(8, Math.max(1, scale));
  moveTo(at[0] - ((at[0] - zoom.x) * to) / zoom.scale, at[1] - ((at[1] - zoom.y) * to) / zoom.scale, to);
}
function moveTo(x, y, scale = zoom.scale) {
  zoom.scale = scale; // the picture always fills its stage
  zoom.x = Math.min(0, Math.max(1 - scale, x));
  zoom.y = Math.min(0, Math.max(1 - scale, y));
  element.style.setProperty('--sl-zoom', scale);
  element.style.setProperty('--sl-x', `${100 * zoom.x}%`);
  element.style.setProperty('--sl-y', `${100 * zoom.y}%`);
  element.classList.toggle('sl-is-zoomed', scale > 1);
}
function share(event, stage) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
element.addEventListener('wheel', (event) => {
  const stage = event.target.closest('.sl-stage');
  if (!stage || !(event.ctrlKey || event.metaKey)) return; // a plain wheel scrolls the page
  event.preventDefault();
  zoomTo(zoom.scale * Math.exp(-event.deltaY / 200), share(event, stage));
}, { passive: false });
element.addEventListener('dblclick', (event) => {
  const stage = event.target.closest('.sl-stage');
  if (stage) zoomTo(zoom.scale > 1 ? 1 : 3, share(event, stage));
});
element.addEventListener('pointerdown', (event) => {
  const stage = event.target.closest('.sl-stage');
  if (stage && zoom.scale > 1) zoom.drag = { from: share(event, stage), x: zoom.x, y: zoom.y, moved: false };
});
element.addEventListener('pointermove', (event) => {
  const stage = event.target.closest('.sl-stage');
  if (!zoom.drag || !stage || !event.buttons) return;
  const [x, y] = share(event, stage);
  const by = [x - zoom.drag.from[0], y - zoom.drag.from[1]];
  zoom.drag.moved ||= Math.hypot(...by) > 0.02;
  if (zoom.drag.moved) moveTo(zoom.drag.x + by[0], zoom.drag.y + by[1]);
});
element.addEventListener('click', (event) => {
  if (zoom.drag?.moved) event.stopImmediatePropagation(); // a drag is no click
  zoom.drag = null;
  const button = event.target.closest('[data-zoom]');
  if (button) zoomTo(zoom.scale * (button.dataset.zoom === 'in' ? 1.6 : 1 / 1.6));
}, true);
element.addEventListener('keydown', (event) => {
  if (!event.target.closest('.sl-stage') || event.ctrlKey || event.metaKey) return;
  if (event.key === '+' || event.key === '=') zoomTo(zoom.scale * 1.6);
  if (event.key === '-') zoomTo(zoom.scale / 1.6);
  if (event.key === '0') zoomTo(1);
});
element.addEventListener('input', (event) => {
  if (event.target.matches('.sl-compare input')) {
    element.style.setProperty('--sl-wipe', `${event.target.value}%`);
  }
});

// Outlines of objects, switched by category; what is off stays off for the next picture or layer.
const off = new Set();
function outline() {
  const switches = [...element.querySelectorAll('[data-toggle]:not([data-toggle="*"])')];
  for (const box of switches) box.checked = !off.has(box.dataset.toggle);
  const all = element.querySelector('[data-toggle="*"]');
  if (all) all.checked = switches.every((box) => box.checked);
  for (const group of element.querySelectorAll('.sl-objects g')) {
    group.style.display = off.has(group.dataset.category) ? 'none' : '';
  }
}
element.addEventListener('change', (event) => {
  const name = event.target.dataset.toggle;
  if (!name) return;
  const names = name === '*'
    ? [...element.querySelectorAll('[data-toggle]')].map((box) => box.dataset.toggle)
    : [name];
  for (const one of names) event.target.checked ? off.delete(one) : off.add(one);
  outline();
});

watch('value', () => {
  outline();
  tell('sl-drawn');
  const { rows, cols } = figures()[0]?.dataset ?? {};
  if (state.row === null || !rows) {
    leave();
  } else {
    // The token at the same place, since another resolution or model has another grid.
    const to = { rows: Number(rows), cols: Number(cols) };
    show(onGrid(state.row, state.rows, to.rows), onGrid(state.col, state.cols, to.cols), to);
  }
});
