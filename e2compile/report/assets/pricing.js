// Counted work times prices, as e2compile's bill has it; the conditions of work stay symbols until here.

const REPORT = JSON.parse(document.getElementById("data").textContent);
const TABLES = REPORT.tables;
const PRICES = REPORT.prices;
const EXPECTED = "expected";
const EVERYTHING = "everything";
const LEAST = "least";

// What of each condition is executed: as expected, as a run has counted, all of it, or as little as can be.
function sharesOf(scenario) {
  const names = Object.keys(REPORT.shares);
  if (scenario === EVERYTHING) return Object.fromEntries(names.map((name) => [name, 1]));
  if (scenario === LEAST) return Object.fromEntries(names.map((name) => [name, name === "step" ? 1 : 0]));
  const expected = Object.fromEntries(names.map((name) => [name, REPORT.shares[name].value]));
  const run = REPORT.runs.find((found) => `run ${found.name}` === scenario);
  return { ...expected, ...(run ? run.shares : {}) };
}

const SCENARIOS = [
  [EXPECTED, "expected"],
  ...REPORT.runs.map((run) => [`run ${run.name}`, `executed in run ${run.name}`]),
  [EVERYTHING, "everything runs"],
  [LEAST, "every step runs, no block, no fallback"],
];

// An item with samples is done where any of so many lives; without them by the share itself.
function probability(when, shares) {
  let product = 1;
  for (const [name, samples] of TABLES.when[when]) {
    product *= samples ? 1 - (1 - shares[name]) ** samples : shares[name];
  }
  return product;
}

// Lines of a work's quantities if it runs whole: amount, figure and joules, seconds of the machine among them,
// and what an accelerator takes and moves for its products.
function lines(amounts, operator) {
  const sums = new Map();
  const add = (quantity, amount) => amount && sums.set(quantity, (sums.get(quantity) ?? 0) + amount);
  let seconds = 0;
  for (const [place, amount] of TABLES.amounts[amounts]) {
    const quantity = TABLES.quantities[place];
    add(quantity, amount);
    seconds += amount * (PRICES.seconds[quantity] ?? 0);
  }
  const each = REPORT.device.each[TABLES.operators[operator]] ?? {};
  const products = sums.get("mac.int8") ?? 0;
  for (const [quantity, size] of Object.entries(each)) {
    if (quantity !== "time.device") add(quantity, products * size);
  }
  if (PRICES.figures.time) {
    const device = products * (each["time.device"] ?? 0);
    add("time", seconds + device);
    add("time.device", device);
  }
  return [...sums].map(([quantity, amount]) => {
    const figure = PRICES.figures[quantity];
    return { quantity, amount, figure, joules: amount * figure.si };
  });
}

const known = new Map();

// Joules and seconds of a work that runs whole.
function wholeCost(amounts, operator) {
  const hash = amounts * TABLES.operators.length + operator;
  if (!known.has(hash)) {
    const found = lines(amounts, operator);
    const time = found.find((line) => line.quantity === "time");
    known.set(hash, [found.reduce((sum, line) => sum + line.joules, 0), time ? time.amount : 0]);
  }
  return known.get(hash);
}

// Joules of each row of a stage, or null where no work is known of any.
function stageJoules(stage, shares) {
  const chances = TABLES.when.map((_, when) => probability(when, shares));
  if (stage.works.every((place) => TABLES.works[place].length === 0)) return null;
  return stage.works.map((place, row) => {
    const work = TABLES.works[place];
    let sum = 0;
    for (let i = 0; i < work.length; i += 2) {
      sum += wholeCost(work[i], stage.operators[row])[0] * chances[work[i + 1]];
    }
    return sum;
  });
}

// The rows of a side of the work, `before`, `after` or `evaluation`, priced.
function priced(side, shares) {
  const chances = TABLES.when.map((_, when) => probability(when, shares));
  return REPORT.work[side].map(([phase, place, operator, amounts, when]) => {
    const [cost, seconds] = wholeCost(amounts, operator);
    const [module, where] = TABLES.places[place];
    return {
      phase: TABLES.phases[phase], module: module || "the step", block: module.replace(/\.[^.]*$/, "") || "the step", where, operator: TABLES.operators[operator],
      joules: cost * chances[when], seconds: seconds * chances[when], amounts, chance: chances[when], place: operator,
    };
  });
}

const total = (items, what = "joules") => items.reduce((sum, item) => sum + item[what], 0);
