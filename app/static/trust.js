// The panel of checks: the slider over random layers, and what is said once the view has changed.
// Runs once; the HTML inside is replaced with every check.
let view = 0;
let asked = 0;

function outdated() {
  for (const panel of element.querySelectorAll('.sl-trust[data-checked]')) {
    panel.classList.toggle('sl-outdated', view !== asked);
  }
}

function step(to) {
  for (const figure of element.querySelectorAll('.sl-step')) {
    figure.querySelectorAll('img').forEach((image, at) => { image.hidden = at !== to; });
    const correlation = Number(figure.dataset.correlations.split(' ')[to]);
    figure.querySelector('output').textContent =
      to ? `rank correlation ${correlation.toFixed(2).replace('-', '−')}` : 'the map itself';
  }
  const slider = element.querySelector('.sl-steps input');
  const said = slider.dataset.steps.split('|')[to];
  element.querySelector('.sl-steps output').textContent = said;
  slider.setAttribute('aria-valuetext', said);
  const points = Number(slider.max) + 1; // of each line
  element.querySelectorAll('.sl-cascade circle').forEach((point, at) => {
    point.classList.toggle('sl-here', at % points === to);
  });
}

document.addEventListener('sl-unchecked', () => { view += 1; outdated(); });
document.addEventListener('click', (event) => {
  if (event.target.closest('#trust-check')) asked = view;
});
element.addEventListener('input', (event) => {
  if (event.target.matches('.sl-steps input')) step(Number(event.target.value));
});
watch('value', () => {
  outdated();
  const slider = element.querySelector('.sl-steps input');
  if (slider) step(Number(slider.value));
});
