// A stage's rows: what each reads and who reads it, the branch it lies in, and what differs from another stage.

const REGIONS = ["#2f7ed8", "#d2410b", "#2a9d63", "#8e57c9", "#c9a227", "#c2477f", "#4ca6a8", "#7a6f5d"];

// A property that is made when it is first read: most stages are never looked at.
function once(object, name, make) {
  const value = make();
  Object.defineProperty(object, name, { value });
  return value;
}

class Stage {
  constructor(content) {
    this.content = content;
    this.name = content.name;
    this.size = content.names.length;
  }

  get reads() {
    return once(this, "reads", () =>
      this.content.reads.map((distances, row) => distances.map((distance) => row - distance)));
  }

  get users() {
    return once(this, "users", () => {
      const users = this.content.names.map(() => []);
      this.reads.forEach((reads, row) => new Set(reads).forEach((read) => users[read].push(row)));
      return users;
    });
  }

  get branch() {
    return once(this, "branch", () => this.content.in.flatMap(([branch, count]) => Array(count).fill(branch)));
  }

  get chains() {
    return once(this, "chains", () => this.content.branches.map((_, branch) => this.chain(branch)));
  }

  get guards() {
    return once(this, "guards", () => [...new Set(this.content.branches.map(([name]) => guardOf(name)))]);
  }

  // What of the graph's results a row is.
  get results() {
    return once(this, "results", () => {
      const results = new Map();
      for (const [row, slot] of this.content.outputs) results.set(row, [...(results.get(row) ?? []), slot]);
      return results;
    });
  }

  // The branches around a branch, outermost first, itself last.
  chain(branch) {
    const around = [];
    for (let at = branch; at >= 0; at = this.content.branches[at][2]) around.unshift(at);
    return around;
  }

  chainOf(row) {
    return this.branch[row] < 0 ? [] : this.chains[this.branch[row]];
  }

  // The names of the branches around a row: "execute / slu_0_0_execute".
  region(row) {
    return this.branch[row] < 0 ? "" : this.regions[this.branch[row]];
  }

  get regions() {
    return once(this, "regions", () =>
      this.chains.map((chain) => chain.map((branch) => this.content.branches[branch][0]).join(" / ")));
  }

  paint(branch) {
    const guard = guardOf(this.content.branches[branch][0]);
    return guard === STEP_GUARD ? "var(--other)" : REGIONS[this.guards.indexOf(guard) % REGIONS.length];
  }

  operator(row) { return TABLES.operators[this.content.operators[row]]; }
  type(row) { return TABLES.types[this.content.types[row]]; }
  phase(row) { return TABLES.phases[this.content.phases[row]]; }
  module(row) { return TABLES.places[this.content.places[row]][0]; }
  where(row) { return TABLES.places[this.content.places[row]][1]; }
  label(row) { return `%${this.content.names[row]}`; }

  // The arguments as they are printed, with the names of what is read.
  arguments(row) {
    let next = 0;
    const text = TABLES.texts[this.content.texts[row]];
    if (this.operator(row) === "input" || this.operator(row) === "parameter") return text;
    return text.replaceAll("{}", () => this.label(this.reads[row][next++]));
  }

  // What two rows of two stages have in common that are the same call.
  key(row) {
    const { operators, types, texts, phases, places } = this.content;
    return [operators[row], types[row], texts[row], phases[row], places[row]].join();
  }
}

const STEP_GUARD = "step";

// "slu_0_1_execute" and "slu_0_0_skip" are the parts of slu_0; "execute" alone is the step's own guard.
function guardOf(branch) {
  if (branch === "execute" || branch === "skip") return STEP_GUARD;
  return branch.replace(/_(execute|skip)$/, "").replace(/^(slu_\d+)_\d+$/, "$1");
}

// How a stage differs from another: the n-th call of a kind is the n-th of that kind there. Gives a sign for each
// row, "" where nothing changed, and the other's rows that are gone, by the row that they followed.
function compared(stage, other) {
  const waiting = new Map();
  for (let row = 0; row < other.size; row++) {
    const key = other.key(row);
    if (!waiting.has(key)) waiting.set(key, []);
    waiting.get(key).push(row);
  }
  for (const rows of waiting.values()) rows.reverse();
  const partner = Array.from({ length: stage.size }, (_, row) => waiting.get(stage.key(row))?.pop() ?? -1);
  const signs = partner.map((found, row) => {
    if (found < 0) return "added";
    if (stage.region(row) !== other.region(found)) return "moved";
    const theirs = other.reads[found];
    return stage.reads[row].every((read, i) => partner[read] === theirs[i]) ? "" : "rewired";
  });
  const here = new Map(partner.map((found, row) => [found, row]));
  const removed = new Map();
  let anchor = -1;
  for (let row = 0; row < other.size; row++) {
    if (here.has(row)) anchor = here.get(row);
    else removed.set(anchor, [...(removed.get(anchor) ?? []), row]);
  }
  return { signs, removed };
}

const SIGNS = { added: "+", removed: "−", moved: "→", rewired: "~" };
const STAGES = REPORT.stages.map((content) => new Stage(content));
