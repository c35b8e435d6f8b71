// Figures get a frame that scrolls by itself; whatever scrolls can be reached with the keyboard.
function frame(image) {
  if (image.naturalWidth < 500 || image.closest("a")) return;
  const box = document.createElement("div");
  box.className = "figure";
  image.style.setProperty("--natural", `${image.naturalWidth}px`);
  image.replaceWith(box);
  box.append(image);
}

function reach() {
  for (const box of document.querySelectorAll("article pre, .table-wrapper, .figure, article math")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

addEventListener("load", () => {
  document.querySelectorAll("article img").forEach(frame);
  reach();
  // What is folded has no width yet.
  document.querySelectorAll("article details").forEach(fold => fold.addEventListener("toggle", reach));
});
addEventListener("resize", reach);
