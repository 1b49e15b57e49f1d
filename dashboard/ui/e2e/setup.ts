import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Demo } from "./demo";

const repository = resolve(import.meta.dirname, "../../..");

/** How long the demonstration may take to build and come up, in ms. */
const patience = 180_000;

/**
 * The setup of all tests: the demonstration as `go run ./deployments/demo`
 * starts it. The function that is returned ends it.
 */
export default async function setup(): Promise<() => Promise<void>> {
  const dir = await mkdtemp(join(tmpdir(), "swanherd-e2e-"));
  const program = join(dir, "demo");
  // Built, not `go run`, which would not pass a signal on.
  const build = spawn("go", ["build", "-o", program, "./deployments/demo"], {
    cwd: repository,
    stdio: "inherit",
  });
  if ((await ended(build)) !== 0) throw new Error("the demonstration does not build");

  const child = spawn(program, ["-o", "json", "--listen", "127.0.0.1:0"], {
    cwd: repository,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await ended(child);
    }
    await rm(dir, { recursive: true, force: true });
  };
  try {
    const demo = await firstObject(child);
    if (demo.verdict !== "ok") throw new Error(`the demonstration came up and says: ${demo.verdict}`);
    process.env.SWANHERD_E2E = JSON.stringify({ ...demo, pid: child.pid, dir });
  } catch (err) {
    await stop();
    throw err;
  }
  return stop;
}

async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null) return child.exitCode;
  const [code] = await once(child, "exit");
  return code;
}

/** firstObject reads what the demonstration prints once everything is up. */
function firstObject(child: ChildProcess): Promise<Omit<Demo, "pid" | "dir"> & { verdict: string }> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`the demonstration is not up after ${patience} ms`)),
      patience,
    );
    const failed = (why: string) => {
      clearTimeout(timer);
      reject(new Error(why));
    };
    let text = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (!text.endsWith("\n}\n")) return;
      clearTimeout(timer);
      resolve(JSON.parse(text));
    });
    child.on("error", (err) => failed(`the demonstration does not start: ${err.message}`));
    child.on("exit", (code) => failed(`the demonstration ended with ${code} before it was up`));
  });
}
