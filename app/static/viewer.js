// Behaviour of the linked Q̂ and K̂ pictures. Runs once per viewer; the HTML inside may be replaced
// at any time, so events are delegated and elements looked up when they are needed.
// The token pointed at, by its row and column on a grid of rows × cols: CvT's keys have a grid of
// their own, on which the token at the same place is meant.
const state = { row: null, col: null, rows: 1, cols: 1, pinned: false };
const onGrid = (index, from, to) => Math.min(to - 1, Math.floor(((index + 0.5) * to) / from));
const figures = () => [...element.querySelectorAll('.sl-figure')];
const number = (x) => (x === 0 ? '0' : Math.abs(x) < 0.001 ? x.toExponential(2) : x.toPrecision(4));

function show(atRow, atCol, grid = { rows: 1, cols: 1 }) {
  Object.assign(state, { row: atRow, col: atCol, rows: grid.rows, cols: grid.cols });
  for (const figure of figures()) {
    const { rows, cols, min, max, flat } = figure.dataset;
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
    readout.textContent =
      `Row ${row + 1}, column ${col + 1}: ${number(value)} (${Math.round(100 * share)} % of the range)` +
      (state.pinned ? ' · pinned' : '');
  }
}

function tokenAt(event) {
  const stage = event.target.closest('.sl-stage');
  if (!stage) return null;
  const { rows, cols } = stage.closest('.sl-figure').dataset;
  const box = stage.getBoundingClientRect();
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
  const { rows, cols } = stage.closest('.sl-figure').dataset;
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === 'Escape') {
    state.pinned = false;
    show(null, null);
  } else if (step) {
    event.preventDefault();
    state.pinned = true;
    const move = (from, by, had, count) =>
      from === null
        ? Math.floor(count / 2)
        : Math.min(count - 1, Math.max(0, onGrid(from, had, count) + by));
    show(move(state.row, step[0], state.rows, rows), move(state.col, step[1], state.cols, cols), {
      rows,
      cols,
    });
  }
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
  const { rows, cols } = figures()[0]?.dataset ?? {};
  const inside = state.row !== null && state.row < rows && state.col < cols;
  if (!inside) state.pinned = false;
  show(inside ? state.row : null, inside ? state.col : null, inside ? { rows, cols } : undefined);
});
