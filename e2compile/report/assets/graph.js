// The graph of a stage: a strip of all its calls to zoom into, a list of them by layer, and the chosen one.

const ROW_HEIGHT = 22;
const ORDERS = [["module", "by layer"], ["phase", "by phase"], ["region", "by guard"], ["none", "in order"]];

// Layers in the order in which the model runs them, what passes have added last.
const LAYERS = new Map();
for (let row = 0; row < STAGES[0].size; row++) {
  const name = STAGES[0].operator(row) === "parameter" ? "" : STAGES[0].module(row);
  if (name && !LAYERS.has(name)) LAYERS.set(name, LAYERS.size);
}

function layerPlace(name) {
  if (name === "inputs") return -1;
  return LAYERS.get(name) ?? (name === "the step" ? LAYERS.size + 1 : LAYERS.size);
}

class GraphView {
  constructor() {
    this.number = STAGES.length - 1;
    this.other = -1;
    this.order = "module";
    this.query = "";
    this.onlyChanges = false;
    this.scenario = EXPECTED;
    this.open = new Set();
    this.at = 0;
    this.build();
    this.load();
  }

  build() {
    this.bar = element("div", { class: "bar" });
    this.canvas = element("canvas", {});
    this.strip = element("div", { class: "strip", tabindex: 0, role: "img", onkeydown: (event) => this.stripKey(event),
      "aria-label": "All calls in order: height is joules, colour the phase, the band below guards. Plus and minus zoom, arrows move." },
      this.canvas);
    this.space = element("div", {});
    this.list = element("div", { class: "list", id: "rows", tabindex: 0, role: "listbox", "aria-label": "Calls",
      onscroll: () => this.paint(), onkeydown: (event) => this.listKey(event) }, this.space);
    this.detail = element("div", { class: "detail", id: "detail", "aria-live": "polite" });
    this.summary = element("span", { class: "dim", id: "graph-summary" });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, event.offsetX / this.canvas.clientWidth);
    }, { passive: false });
    this.canvas.addEventListener("click", (event) => this.choose(this.dearestAt(event.offsetX)));
    new ResizeObserver(() => { this.paint(); this.paintStrip(); }).observe(this.list);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paintStrip());
    this.nodes = [this.bar, this.strip, element("div", { class: "split" }, this.list, this.detail)];
  }

  get stage() { return STAGES[this.number]; }

  load() {
    this.joules = stageJoules(this.stage.content, sharesOf(this.scenario));
    const other = STAGES[this.other];
    this.change = other ? compared(this.stage, other) : null;
    this.otherJoules = other ? stageJoules(other.content, sharesOf(this.scenario)) : null;
    this.most = Math.max(1e-30, ...(this.joules ?? [0]).concat(this.otherJoules ?? []));
    this.from = 0;
    this.to = this.stage.size;
    this.chosen = null;
    this.controls();
    this.arrange();
    this.detail.replaceChildren(element("p", { class: "dim" },
      "Choose a call: arrow keys move, right and left open and close, / searches."));
  }

  controls() {
    const names = STAGES.map((stage, i) => [String(i), stage.name]);
    const search = element("input", { type: "search", id: "search", placeholder: "search  (press /)", value: this.query,
      "aria-label": "Search operator, layer, line, type or guard",
      oninput: (event) => { this.query = event.target.value; this.arrange(); } });
    const changes = element("input", { type: "checkbox", onchange: (event) => {
      this.onlyChanges = event.target.checked; this.arrange(); } });
    changes.checked = this.onlyChanges;
    this.bar.replaceChildren(
      choice("stage", names, String(this.number), (value) => { this.number = Number(value); this.load(); }),
      choice("compared with", [["-1", "none"], ...names], String(this.other),
        (value) => { this.other = Number(value); this.load(); }),
      this.change ? element("label", {}, changes, " changes only") : "",
      choice("rows", ORDERS, this.order, (value) => { this.order = value; this.arrange(); }),
      choice("guards", SCENARIOS, this.scenario, (value) => { this.scenario = value; this.load(); }),
      search, this.summary);
  }

  // The rows that pass search and filter, a removed one after the row that it followed.
  entries() {
    const { stage, change } = this;
    const query = this.query.toLowerCase();
    const texts = ["operator", "type", "module", "where", "region", "label", "arguments"];
    const passes = (of, row) => !query || texts.some((name) => of[name](row).toLowerCase().includes(query));
    const found = [];
    const gone = (anchor) => (change?.removed.get(anchor) ?? []).forEach((row) => {
      if (passes(STAGES[this.other], row)) found.push({ of: STAGES[this.other], row, sign: "removed" });
    });
    gone(-1);
    for (let row = 0; row < stage.size; row++) {
      const sign = change ? change.signs[row] : "";
      if ((!this.onlyChanges || !change || sign) && passes(stage, row)) found.push({ of: stage, row, sign });
      gone(row);
    }
    return found;
  }

  arrange() {
    const entries = this.entries();
    const isOpen = (name) => this.query || this.onlyChanges || this.open.has(name);
    this.shown = [];
    if (this.order === "none") {
      this.shown = entries;
    } else {
      const groups = new Map();
      for (const entry of entries) {
        const name = this.groupOf(entry);
        if (!groups.has(name)) groups.set(name, []);
        groups.get(name).push(entry);
      }
      const heads = [...groups].map(([group, members]) => ({ group, members, count: members.length,
        joules: members.reduce((sum, entry) => sum + this.cost(entry), 0),
        changed: members.filter((entry) => entry.sign).length }));
      if (this.order === "module") heads.sort((a, b) => layerPlace(a.group) - layerPlace(b.group));
      this.mostOfGroup = Math.max(1e-30, ...heads.map((head) => head.joules));
      for (const found of heads) {
        this.shown.push(found);
        if (isOpen(found.group)) this.shown.push(...found.members);
      }
    }
    this.at = Math.min(this.at, Math.max(0, this.shown.length - 1));
    this.space.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    const counts = this.change ? Object.entries(SIGNS).map(([sign, mark]) =>
      `${mark}${entries.filter((entry) => entry.sign === sign).length} ${sign}`).join("  ") : "";
    const sum = this.joules ? joules(this.joules.reduce((a, b) => a + b, 0)) : "a call stands for several here: joules are counted from differentiated on";
    this.summary.textContent = `${whole(entries.filter((entry) => entry.sign !== "removed").length)} rows, ${sum}  ${counts}`;
    this.paint();
    this.paintStrip();
  }

  groupOf({ of, row }) {
    if (of.operator(row) === "input") return "inputs";
    if (this.order === "module") return of.module(row) || "the step";
    if (this.order === "phase") return of.phase(row) || "no phase";
    return of.region(row) || "always";
  }

  cost({ of, row }) {
    const sums = of === this.stage ? this.joules : this.otherJoules;
    return sums ? sums[row] : 0;
  }

  paint() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - 5);
    const last = Math.min(this.shown.length, first + Math.ceil(this.list.clientHeight / ROW_HEIGHT) + 10);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(this.row(i));
    this.space.replaceChildren(...rows);
    if (this.shown.length) this.list.setAttribute("aria-activedescendant", `row-${this.at}`);
  }

  row(i) {
    const entry = this.shown[i];
    const attributes = { id: `row-${i}`, role: "option", "aria-selected": i === this.at ? "true" : "false",
      style: `top:${i * ROW_HEIGHT}px`, onclick: () => { this.at = i; this.enter(true); } };
    const kind = i === this.at ? "chosen" : "";
    if ("group" in entry) {
      const mark = this.open.has(entry.group) || this.query ? "▾" : "▸";
      return element("div", { ...attributes, class: `row head ${kind}` }, element("span", {}, mark),
        element("span", { class: "what" }, entry.group), element("span", { class: "dim" }, `${whole(entry.count)} rows`),
        entry.changed ? element("span", { class: "dim" }, `${whole(entry.changed)} changed`) : "",
        this.right(entry.joules, "", entry.joules / this.mostOfGroup));
    }
    const { of, row, sign } = entry;
    return element("div", { ...attributes, class: `row ${sign} ${kind}` },
      element("span", { class: "sign" }, SIGNS[sign] ?? ""),
      of.chainOf(row).map((branch) => element("span", { class: "region", style: `background:${of.paint(branch)}` })),
      element("span", { class: "name mono" }, of.label(row)),
      element("span", { class: "what mono" }, `${of.operator(row)}(${of.arguments(row)})`),
      element("span", { class: "type mono" }, of.type(row)),
      this.right(this.cost(entry), of.phase(row)));
  }

  // The joules of a call in the colour of their level, those of a group as a bar.
  right(value, phase, share) {
    const style = !value ? "width:0;min-width:0" : share === undefined ? `background:${this.heat(value)}` : `width:${100 * share}%;background:var(--heat)`;
    return element("span", { class: "rest" },
      phase ? element("span", { class: "tag", style: `color:${colour(phase)}` }, phase) : "",
      element("span", { class: "joules" }, value ? joules(value) : ""),
      element("span", { class: "heat" }, element("i", { style })));
  }

  heat(value) {
    return `color-mix(in oklab, var(--heat) ${Math.round(100 * this.level(value))}%, var(--panel))`;
  }

  // From nothing to one, over three orders of magnitude below the dearest call.
  level(value) {
    return value ? Math.min(1, Math.max(0.03, 1 + Math.log10(value / this.most) / 3)) : 0;
  }

  // Open or close a group, or show a call.
  enter(toggles) {
    const entry = this.shown[this.at];
    if (!entry) return;
    if ("group" in entry) {
      if (toggles) this.toggle(entry.group, !this.open.has(entry.group));
      else this.paint();
      return;
    }
    this.chosen = entry;
    this.paint();
    this.paintStrip();
    this.detail.replaceChildren(...detail(entry, this));
  }

  toggle(group, isOpen) {
    if (isOpen) this.open.add(group);
    else this.open.delete(group);
    this.arrange();
  }

  // Show a row of the stage, wherever it is.
  choose(row) {
    if (row === null) return;
    const isIt = (entry) => entry.of === this.stage && entry.row === row;
    if (!this.shown.some(isIt)) {
      this.query = "";
      this.onlyChanges = false;
      this.open.add(this.groupOf({ of: this.stage, row }));
      this.controls();
      this.arrange();
    }
    this.moveTo(this.shown.findIndex(isIt));
  }

  moveTo(at) {
    this.at = Math.max(0, Math.min(this.shown.length - 1, at));
    const top = this.at * ROW_HEIGHT;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + ROW_HEIGHT > this.list.scrollTop + this.list.clientHeight) {
      this.list.scrollTop = top + ROW_HEIGHT - this.list.clientHeight;
    }
    this.enter(false);
  }

  listKey(event) {
    const page = Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const entry = this.shown[this.at];
    if (event.key in steps) this.moveTo(this.at + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.enter(true);
    else if (event.key === "ArrowRight" && entry && "group" in entry) this.toggle(entry.group, true);
    else if (event.key === "ArrowLeft" && entry) this.leave(entry);
    else return;
    event.preventDefault();
  }

  leave(entry) {
    if ("group" in entry) return this.toggle(entry.group, false);
    if (this.order === "none") return undefined;
    const name = this.groupOf(entry);
    return this.moveTo(this.shown.findIndex((found) => found.group === name));
  }

  stripKey(event) {
    const width = this.to - this.from;
    if (event.key === "+" || event.key === "=") this.zoom(1 / 1.5, 0.5);
    else if (event.key === "-") this.zoom(1.5, 0.5);
    else if (event.key === "ArrowLeft") this.pan(-width / 10);
    else if (event.key === "ArrowRight") this.pan(width / 10);
    else return;
    event.preventDefault();
  }

  zoom(factor, centre) {
    const width = Math.min(this.stage.size, Math.max(20, (this.to - this.from) * factor));
    const fixed = this.from + centre * (this.to - this.from);
    this.from = fixed - centre * width;
    this.to = this.from + width;
    this.pan(0);
  }

  pan(by) {
    const width = this.to - this.from;
    this.from = Math.max(0, Math.min(this.stage.size - width, this.from + by));
    this.to = this.from + width;
    this.paintStrip();
  }

  rowsAt(x, width) {
    const scale = (this.to - this.from) / width;
    const first = Math.floor(this.from + x * scale);
    return [first, Math.min(this.stage.size, Math.max(first + 1, Math.floor(this.from + (x + 1) * scale)))];
  }

  dearestAt(x) {
    const [first, last] = this.rowsAt(Math.max(0, x - 1), this.canvas.clientWidth);
    let best = null;
    for (let row = first; row < Math.min(this.stage.size, last + 2); row++) {
      if (best === null || (this.joules?.[row] ?? 0) > (this.joules?.[best] ?? 0)) best = row;
    }
    return best;
  }

  paintStrip() {
    const { canvas, stage } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    const dense = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * dense, height * dense];
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const style = getComputedStyle(document.documentElement);
    const real = (value) => value.startsWith("var(") ? style.getPropertyValue(value.slice(4, -1)) : value;
    const ground = height - 18;
    for (let x = 0; x < width; x++) {
      const [first, last] = this.rowsAt(x, width);
      let best = first;
      let sign = "";
      for (let row = first; row < last; row++) {
        if ((this.joules?.[row] ?? 0) > (this.joules?.[best] ?? 0)) best = row;
        sign ||= this.change?.signs[row] ?? "";
      }
      if (best >= stage.size) continue;
      const tall = this.joules ? this.level(this.joules[best]) * (ground - 2) : 4;
      pen.fillStyle = real(colour(stage.phase(best)));
      pen.fillRect(x, ground - tall, 1, tall);
      stage.chainOf(best).forEach((branch, depth) => {
        pen.fillStyle = real(stage.paint(branch));
        pen.fillRect(x, ground + 2 + depth * 5, 1, 4);
      });
      if (sign) {
        pen.fillStyle = real(sign === "added" ? "var(--added)" : "var(--moved)");
        pen.fillRect(x, 0, 1, 3);
      }
    }
    if (this.chosen && this.chosen.of === stage) {
      pen.fillStyle = real("var(--text)");
      pen.fillRect((this.chosen.row - this.from) / (this.to - this.from) * width - 1, 0, 2, height);
    }
  }
}
