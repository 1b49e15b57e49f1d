import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** What a test needs to know of the running demonstration. */
export interface Demo {
  /** The sign-in link that it printed. */
  dashboard: string;
  /** As the API lists them, in JSON. */
  tunnels: Tunnel[];
  pid: number;
  /** A scratch directory of the tests. */
  dir: string;
}

interface Tunnel {
  name: string;
  a: End;
  b: End;
}

interface End {
  report: {
    ikeSa: { initiatorSpi: string; responderSpi: string };
    childSas: { spiIn: string; spiOut: string }[];
  };
}

export function demo(): Demo {
  const text = process.env.SWANHERD_E2E;
  if (text === undefined) throw new Error("the setup has not started the demonstration");
  return JSON.parse(text);
}

interface Process {
  pid: number;
  argv: string[];
}

/** running lists the processes that the demonstration started, of one program. */
function running(program: string): Process[] {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    const parent = Number.isInteger(pid) ? parentOf(pid) : undefined;
    if (parent === undefined) continue;
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const ours: Process[] = [];
  const visit = (pid: number) => {
    ours.push({ pid, argv: argvOf(pid) });
    children.get(pid)?.forEach(visit);
  };
  visit(demo().pid);
  return ours.filter((p) => basename(p.argv[0] ?? "") === program);
}

function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name, in parentheses, may hold anything; the state and the parent follow it.
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return undefined; // gone meanwhile
  }
}

function argvOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  } catch {
    return [];
  }
}

function only(processes: Process[], what: string): Process {
  const [first, ...more] = processes;
  if (first === undefined || more.length > 0)
    throw new Error(`found ${processes.length} of ${what}, want one`);
  return first;
}

/** The controller's process. */
export function controller(): Process {
  return only(running("swanherd-server"), "the controller");
}

/** The edge agent's process at a site. */
export function agent(site: string): Process {
  const at = running("swanherd-edge").filter(
    (p) => basename(p.argv[p.argv.indexOf("--state-dir") + 1] ?? "") === site,
  );
  return only(at, `the agent at ${site}`);
}

let signedIn = false;

/** swanherd runs the command line that the demonstration built; what it prints. */
function swanherd(...args: string[]): string {
  const server = controller().argv;
  const program = join(dirname(server[0] ?? ""), "swanherd");
  const global = ["--config", join(demo().dir, "config.yaml"), "--network", "demo"];
  const run = (...a: string[]) =>
    execFileSync(program, [...global, ...a], { encoding: "utf8", stdio: "pipe" });
  if (!signedIn) {
    const credential = join(server[server.indexOf("--data-dir") + 1] ?? "", "admin-credential");
    run("login", "--credential", credential, new URL(demo().dashboard).host);
    signedIn = true;
  }
  return run(...args);
}

/** signInLink makes a link with the command that the sign-in page names. */
export function signInLink(): string {
  return swanherd("dashboard").trim();
}

/** tunnelNow is the tunnel as the API shows it now. */
export function tunnelNow(name: string): Tunnel {
  return JSON.parse(swanherd("get", "tunnels", name, "-o", "json"));
}
