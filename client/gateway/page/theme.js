// Sets the chosen theme before anything is drawn, so that nothing flashes; a classic script for that reason.
try {
  document.documentElement.dataset.theme = localStorage.getItem('flexquant-theme') || 'system';
} catch {
  document.documentElement.dataset.theme = 'system';  // storage is blocked: the choice lasts as long as the page
}
