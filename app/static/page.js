() => {
  // What Gradio leaves out for screen readers.
  const label = () => {
    for (const image of document.querySelectorAll('#photo img:not([alt]), #photo img[alt=""]')) {
      image.alt = 'The chosen photo';
    }
  };
  label();
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
}
