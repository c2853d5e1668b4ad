() => {
  // The choice between light and dark, kept for the next visit.
  const kept = localStorage.getItem('sl-theme');
  if (kept) document.body.classList.toggle('dark', kept === 'dark');
  document.addEventListener('click', (event) => {
    if (!event.target.closest('.sl-theme')) return;
    const dark = document.body.classList.toggle('dark');
    localStorage.setItem('sl-theme', dark ? 'dark' : 'light');
  });

  // What Gradio leaves out for screen readers.
  const label = () => {
    for (const image of document.querySelectorAll('#photo img:not([alt]), #photo img[alt=""]')) {
      image.alt = 'The chosen photo';
    }
  };
  label();
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
}
