/** Is a runner and nothing else, for tests that start VMs without the CLI. */
import { runRunner } from "../../src/vm/runner/runner.ts"

runRunner()
