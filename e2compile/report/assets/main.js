// The page: its head, its tabs, and the keys that lead from one to the other.

const head = document.getElementById("head");
head.append(element("h1", {}, REPORT.program.name),
  element("span", { class: "dim" }, [REPORT.program.source, `for ${REPORT.program.target}`,
    REPORT.program.passes.join(", ") || "no passes"].filter(Boolean).join(" · ")));

const PARTS = [
  ["overview", "Overview", overview],
  ["energy", "Energy", energy],
  ["graph", "Graph", () => { view ??= new GraphView(); return view.nodes; }],
  ["memory", "Memory", memory],
  ...(REPORT.array ? [["array", "Array", array]] : []),
  ...(REPORT.runs.length ? [["training", "Training", training]] : []),
  ...(REPORT.measured ? [["measured", "Measured", measured]] : []),
  ["prices", "Prices", prices],
];
let view;

const tabs = document.getElementById("tabs");
const main = document.getElementById("main");
const made = new Map();

for (const [name, label] of PARTS) {
  tabs.append(element("button", { role: "tab", id: `tab-${name}`, "aria-controls": name, onclick: () => show(name) }, label));
}

// Parts are made when they are first shown, so that the page is there at once.
function show(name) {
  if (!made.has(name)) {
    const part = element("section", { class: "part", id: name, role: "tabpanel", "aria-labelledby": `tab-${name}` });
    main.append(part);
    made.set(name, part);
    part.append(...PARTS.find(([key]) => key === name)[2]().filter(Boolean));
  }
  for (const [key, part] of made) part.hidden = key !== name;
  for (const tab of tabs.children) {
    const isIt = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", isIt);
    tab.tabIndex = isIt ? 0 : -1;
  }
  history.replaceState(null, "", `#${name}`);
}

// The graph of a stage, its rows searched for a text.
function openGraph(number, query = "") {
  show("graph");
  view.number = number;
  view.query = query;
  view.load();
  view.list.focus();
}

tabs.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const buttons = [...tabs.children];
  const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
  next.focus();
  next.click();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  event.preventDefault();
  show("graph");
  document.getElementById("search").focus();
});

const asked = location.hash.slice(1);
show(PARTS.some(([name]) => name === asked) ? asked : "overview");
