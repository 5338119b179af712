// Makes the page interactive. Without this script everything is there, only still.
// All texts are put in as texts, never as HTML.

const data = JSON.parse(document.querySelector("script.page-data")?.textContent ?? "{}");
const { layers = {}, flips = [], documents = {} } = data;
const SVG = "http://www.w3.org/2000/svg";

document.documentElement.classList.add("scripted");

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- A plan as a strip of the model's layers: how often each one runs.

function countsOf(plan, model) {
  const mine = [layers[model], ...Object.values(layers)].find((plans) => plans?.[plan]);
  // "23*1 1*2 6*1" is 23 layers once, one twice, six once.
  return (mine?.[plan] ?? "").split(" ").filter(Boolean).flatMap((run) => {
    const [length, count] = run.split("*").map(Number);
    return Array(length).fill(count);
  });
}

function strip(plan, model) {
  const counts = countsOf(plan, model);
  if (!counts.length) return null;
  const width = Math.max(4, Math.min(11, 330 / counts.length));
  const most = Math.max(...counts, 1);
  const unit = Math.min(11, 44 / most);
  const picture = document.createElementNS(SVG, "svg");
  const size = { width: counts.length * width + 2, height: most * unit + 16 };
  const set = (node, values) =>
    Object.entries(values).forEach(([name, value]) => node.setAttribute(name, value));
  set(picture, { ...size, viewBox: `0 0 ${size.width} ${size.height}`, class: "strip" });
  set(picture, { "aria-hidden": "true" });
  const box = (x, y, height, fill) => {
    const rect = document.createElementNS(SVG, "rect");
    set(rect, { x, y, width: width - 1, height: height - 1, fill, stroke: "#595959" });
    set(rect, { "stroke-width": 0.5 });
    picture.append(rect);
  };
  counts.forEach((count, layer) => {
    const x = layer * width + 1;
    if (!count) box(x, most * unit - 3, 3, "none");
    for (let done = 0; done < count; done += 1) {
      const height = Math.min(1, count - done) * unit;
      box(x, most * unit - done * unit - height + 1, height, done ? "#0173b2" : "#bdbdbd");
    }
  });
  const label = (text, x, anchor) => {
    const node = document.createElementNS(SVG, "text");
    set(node, { x, y: size.height - 3, "text-anchor": anchor, "font-size": 10, fill: "#595959" });
    node.textContent = text;
    picture.append(node);
  };
  label("layer 0", 0, "start");
  label(String(counts.length - 1), size.width - 2, "end");
  return picture;
}

// ---- The tip: what a point or a plan is.

const tip = document.body.appendChild(make("div", { class: "tip", hidden: "" }));
const spoken = document.body.appendChild(
  make("div", { class: "hidden-text", "aria-live": "polite" }),
);

function showTip(content, x, y) {
  tip.replaceChildren(...content.filter(Boolean));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? x - 14 - width : x + 14;
  const top = y + 14 + height > innerHeight ? y - 14 - height : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

function describe(item, model) {
  const { plan, words } = item.datum;
  const rows = typeof item.tooltip === "object" && item.tooltip ? item.tooltip : {};
  const facts = Object.entries(rows).filter(
    ([name, value]) => name !== "plan" && name !== "words" && value !== plan && value !== words,
  );
  return [
    words && make("b", {}, words),
    plan && make("code", {}, plan),
    facts.length &&
      make("dl", {}, ...facts.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, String(v))])),
    plan && strip(plan, model),
  ];
}

document.addEventListener("pointerover", (event) => {
  const said = event.target.closest?.(".words, code.plan");
  const plan = said?.dataset.plan ?? said?.nextElementSibling?.dataset.plan;
  const drawn = plan && strip(plan);
  if (drawn) showTip([drawn], event.clientX, event.clientY);
});
document.addEventListener("pointerout", (event) => {
  if (event.target.closest?.(".words, code.plan")) hideTip();
});
document.addEventListener("scroll", hideTip, { passive: true, capture: true });
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

// ---- The documents that a plan flipped.

function listOf(task, numbers) {
  return make(
    "ul",
    {},
    ...numbers.map((number) => {
      const found = documents[task]?.[number];
      if (!found) return make("li", {}, `document ${number}`);
      const [text, choices, right] = found;
      const others = choices.filter((choice) => choice !== right);
      const note = others.length ? `, not ${others.join(" · ")}` : "";
      return make("li", {}, text, make("br"), "Right: ", make("b", {}, right), note);
    }),
  );
}

function showFlips(figure, datum) {
  const { model, quantization } = figure.dataset;
  const found = flips.filter(
    (row) =>
      row.model === model &&
      row.plan === datum.plan &&
      (!datum.task || row.task === datum.task) &&
      (!(quantization ?? datum.quantization) ||
        row.quantization === (quantization ?? datum.quantization)),
  );
  figure.querySelector(".flipped")?.remove();
  const close = make("button", { type: "button" }, "Close");
  const panel = make("div", { class: "flipped", role: "region", tabindex: "-1" });
  panel.setAttribute("aria-label", `Documents that ${datum.words ?? datum.plan} flipped`);
  panel.append(make("p", {}, make("b", {}, datum.words ?? ""), " ", make("code", {}, datum.plan)));
  if (!found.length) {
    panel.append(
      make("p", {}, "The page has no flipped documents for this point: it holds those of the ",
        "frozen plans and of the plans with the largest changes, on tasks with right and wrong ",
        "answers."),
    );
  }
  for (const row of found) {
    panel.append(
      make("p", {}, make("b", {}, row.task), ` (${row.stage}, ${row.at}): `,
        make("span", { class: "up" }, `${row.up.length} became right`), ", ",
        make("span", { class: "down" }, `${row.down.length} became wrong`), "."),
    );
    if (row.up.length) panel.append(make("p", { class: "up" }, "Became right"), listOf(row.task, row.up));
    if (row.down.length) panel.append(make("p", { class: "down" }, "Became wrong"), listOf(row.task, row.down));
  }
  panel.append(close);
  close.addEventListener("click", () => {
    panel.remove();
    figure.querySelector(".live")?.focus();
  });
  figure.querySelector(".picture").after(panel);
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}

// ---- Pictures: the still SVG gives way to a live one of the same specification.

function pointsOf(view) {
  const found = new Map();
  const walk = (item) => {
    if (item.items && item.marktype && item.marktype !== "group") {
      if (["line", "area", "trail", "rule", "text"].includes(item.marktype)) return;
      for (const point of item.items) {
        if (!point.datum?.plan || !point._svg) continue;
        const { plan, task, x, y } = { ...point.datum, x: point.x, y: point.y };
        found.set([plan, task, x, y].join("|"), point);
      }
      return;
    }
    (item.items ?? []).forEach(walk);
  };
  walk(view.scenegraph().root);
  return [...found.values()];
}

function walkWithKeys(figure, live, view) {
  const ring = live.appendChild(make("div", { class: "ring", hidden: "" }));
  let current = null;
  const centre = (point) => {
    const box = point._svg.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2, box };
  };
  const nearest = (dx, dy) => {
    const points = pointsOf(view);
    if (!current || !points.includes(current)) return points[0];
    const from = centre(current);
    let best = current;
    let least = Infinity;
    for (const point of points) {
      const to = centre(point);
      const along = (to.x - from.x) * dx + (to.y - from.y) * dy;
      const beside = Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx);
      const distance = along + 3 * beside;
      if (along > 0.5 && distance < least) [best, least] = [point, distance];
    }
    return best;
  };
  const visit = (point) => {
    if (!point) return;
    current = point;
    const { x, y, box } = centre(point);
    const frame = live.getBoundingClientRect();
    Object.assign(ring.style, {
      left: `${box.x - frame.x - 4}px`,
      top: `${box.y - frame.y - 4}px`,
      width: `${box.width + 8}px`,
      height: `${box.height + 8}px`,
    });
    ring.hidden = false;
    showTip(describe(point, figure.dataset.model), x, y);
    spoken.textContent = [...tip.querySelectorAll("b, dt, dd")].map((n) => n.textContent).join(" ");
  };
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  live.addEventListener("keydown", (event) => {
    if (event.target !== live) return;
    if (moves[event.key]) visit(nearest(...moves[event.key]));
    else if ((event.key === "Enter" || event.key === " ") && current) showFlips(figure, current.datum);
    else return;
    event.preventDefault();
  });
  live.addEventListener("blur", () => {
    ring.hidden = true;
    hideTip();
  });
  return (point) => {
    current = pointsOf(view).find((other) => other.datum === point.datum) ?? current;
  };
}

async function enliven(figure) {
  const spec = JSON.parse(figure.querySelector("script.spec").textContent);
  const box = figure.querySelector(".picture");
  const name = `${box.getAttribute("aria-label")}: arrow keys move between points, Enter shows the documents that flipped`;
  const live = make("div", { class: "live", role: "application", tabindex: "0", "aria-label": name });
  box.append(live);
  try {
    const options = { renderer: "svg", actions: false, ast: true, tooltip: () => {} };
    const { view } = await vegaEmbed(live.appendChild(make("div", { "aria-hidden": "true" })), spec, options);
    const at = (event, item) => {
      if (!item?.datum?.plan && !item?.tooltip) return hideTip();
      return showTip(describe(item, figure.dataset.model), event.clientX, event.clientY);
    };
    view.addEventListener("pointermove", at);
    view.addEventListener("pointerout", hideTip);
    view.addEventListener("click", (event, item) => {
      if (!item?.datum?.plan) return;
      at(event, item);
      stand(item);
      showFlips(figure, item.datum);
    });
    const stand = walkWithKeys(figure, live, view);
    box.removeAttribute("tabindex");
    figure.classList.add("is-live");
  } catch (error) {
    live.remove();
    console.error(error);
  }
}

const pictures = document.querySelectorAll("figure:has(script.spec)");
if (window.vegaEmbed) {
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        seen.unobserve(target);
        enliven(target);
      }
    },
    { rootMargin: "400px" },
  );
  pictures.forEach((figure) => seen.observe(figure));
}

// ---- Tables: sort by a click on a head, and search in those that are not short.

if (window.tables) {
  for (const table of document.querySelectorAll(".table > table")) {
    const rows = table.tBodies[0].rows.length;
    if (rows < 3) continue;
    const region = table.parentElement;
    const search = rows > 8;
    window.tables(table).DataTable({
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      layout: { topStart: search ? "search" : null, topEnd: null, bottomStart: null, bottomEnd: null },
      language: { search: "Filter the rows:", zeroRecords: "No row has this text." },
    });
    const filter = region.querySelector(".dt-search");
    if (filter) region.before(filter);
  }
}

// ---- Contents: the section in sight is marked; on a narrow screen the menu begins closed.

const menu = document.querySelector("nav details");
const wide = matchMedia("(min-width: 75rem)");
const fold = () => menu.toggleAttribute("open", wide.matches);
fold();
wide.addEventListener("change", fold);
menu.addEventListener("click", (event) => event.target.closest("a") && fold());
const links = new Map([...menu.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const seenNow = new Set();
const marking = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) seenNow.add(target.id);
    else seenNow.delete(target.id);
  }
  const first = [...links.keys()].find((id) => seenNow.has(id)) ?? "main";
  links.forEach((link, id) =>
    id === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"),
  );
}, { rootMargin: "-80px 0px -50%" });
document.querySelectorAll("main section[id]").forEach((part) => marking.observe(part));

// ---- Printing: everything is open, and then as it was.

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("main details:not([open])")];
  opened.forEach((part) => part.setAttribute("open", ""));
});
addEventListener("afterprint", () => opened.forEach((part) => part.removeAttribute("open")));
