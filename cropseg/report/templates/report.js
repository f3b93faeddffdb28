"use strict";
(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];

  // Tables: a click on a heading sorts by it, a second one the other way round, a third gives the first order back.
  const number = (text) => {
    const found = text.replaceAll(",", "").replace("\u2212", "-").match(/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i);
    return found ? parseFloat(found[0]) : NaN;
  };
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  function order(a, b, numeric, sign) {
    if (numeric) {
      const [x, y] = [number(a), number(b)];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what is no number stands last, either way
      return sign * (x - y);
    }
    return sign * words.compare(a, b);
  }
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    const bodies = [...table.tBodies].map((body) => {
      const rows = [...body.rows];
      const fixed = (row) => row.classList.contains("group") || row.classList.contains("total");
      return { body, first: rows.filter((r) => r.classList.contains("group")), rows: rows.filter((r) => !fixed(r)),
        last: rows.filter((r) => r.classList.contains("total")) };
    });
    if (!bodies.some((one) => one.rows.length > 1)) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      const label = head.querySelector(".head");
      button.append(...label.childNodes);
      label.replaceChildren(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
        const way = next === undefined ? "ascending" : next;
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        if (way) head.setAttribute("aria-sort", way);
        for (const { body, first, rows, last } of bodies) {
          const text = (row) => (row.cells[column] ? row.cells[column].textContent.trim() : "");
          const numeric = !head.classList.contains("text");
          const sign = way === "descending" ? -1 : 1;
          const sorted = way ? [...rows].sort((a, b) => order(text(a), text(b), numeric, sign)) : rows;
          body.append(...first, ...sorted, ...last);
        }
      });
    });
  }

  // Classes: a button of the legend switches one off everywhere.
  const off = new Set();
  const colours = new Map();
  for (const item of all(".legend li[data-class]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.title = "Show or hide this class";
    button.append(...item.childNodes);
    item.append(button);
    const number = item.dataset.class;
    colours.set(number, getComputedStyle(button.querySelector(".swatch")).backgroundColor.match(/\d+/g).map(Number));
    button.addEventListener("click", () => {
      off.has(number) ? off.delete(number) : off.add(number);
      apply();
    });
  }
  for (const legend of all(".legend")) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "everything";
    button.textContent = "Show all classes";
    button.addEventListener("click", () => { off.clear(); apply(); });
    item.append(button);
    item.hidden = true;
    legend.append(item);
  }
  function apply() {
    for (const one of all(".legend li[data-class] button")) {
      one.setAttribute("aria-pressed", String(!off.has(one.parentElement.dataset.class)));
    }
    for (const one of all(".everything")) one.parentElement.hidden = off.size === 0;
    for (const one of all("td[data-class], th[data-class], tr[data-class]")) {
      one.classList.toggle("off", off.has(one.dataset.class));
    }
    all(".painted img").forEach(clear);
  }
  // The pixels of classes that are off become transparent, and the image of the same patch shows through.
  function clear(image) {
    image.dataset.whole ??= image.src;
    if (!off.size) {
      image.src = image.dataset.whole;
      image.style.backgroundImage = "";
      return;
    }
    const whole = new Image();
    whole.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [whole.naturalWidth, whole.naturalHeight];
      const drawing = canvas.getContext("2d", { willReadFrequently: true });
      drawing.drawImage(whole, 0, 0);
      const pixels = drawing.getImageData(0, 0, canvas.width, canvas.height);
      const hidden = new Set([...off].map((one) => colours.get(one).slice(0, 3).reduce((sum, part) => sum * 256 + part)));
      for (let i = 0; i < pixels.data.length; i += 4) {
        const colour = (pixels.data[i] * 256 + pixels.data[i + 1]) * 256 + pixels.data[i + 2];
        if (hidden.has(colour)) pixels.data[i + 3] = 0;
      }
      drawing.putImageData(pixels, 0, 0);
      image.src = canvas.toDataURL();
      const photo = image.closest(".tiles").querySelector("img");
      image.style.backgroundImage = "url(" + photo.src + ")";
    };
    whole.src = image.dataset.whole;
  }

  // Patches: a picture can be enlarged; arrows go on to the next.
  const large = document.getElementById("large");
  const tiles = all(".patch .tile");
  let at = 0;
  function show(place) {
    at = (place + tiles.length) % tiles.length;
    const image = tiles[at].querySelector("img");
    const shown = large.querySelector(".stage img");
    shown.src = image.src;
    shown.alt = image.alt;
    shown.style.backgroundImage = image.style.backgroundImage;
    document.getElementById("large-title").textContent = tiles[at].closest("figure").querySelector("figcaption").textContent;
    large.querySelector(".what").textContent = tiles[at].querySelector("span").textContent;
  }
  tiles.forEach((tile, place) => {
    const image = tile.querySelector("img");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", "Enlarge: " + image.alt);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => { show(place); large.showModal(); });
  });
  large.querySelector(".close").addEventListener("click", () => large.close());
  large.querySelector(".back").addEventListener("click", () => show(at - 1));
  large.querySelector(".on").addEventListener("click", () => show(at + 1));
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("close", () => tiles[at].querySelector("button").focus());
  large.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); show(at + step); }
  });

  // What is folded away is printed too, but for the configurations.
  const folds = all("details.fold");
  addEventListener("beforeprint", () => folds.forEach((one) => { one.dataset.was = one.open; one.open = true; }));
  addEventListener("afterprint", () => folds.forEach((one) => { one.open = one.dataset.was === "true"; }));

  // Contents: the chapter being read is marked.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((seen) => {
    for (const one of seen) links.get(one.target.id)?.classList.toggle("here", one.isIntersecting);
  }, { rootMargin: "-20% 0px -79% 0px" });
  all("section[id]").forEach((section) => watch.observe(section));
})();
