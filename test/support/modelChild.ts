/**
 * One process of models tests: asks one thing over HTTP and prints the answer's status. `kill` names the step, by its number, at
 * which it ends by SIGKILL; without it every step is printed.
 */
import { sourcesFor, startModels } from "./models.ts"

interface Task {
  readonly home: string
  readonly method: string
  readonly url: string
  readonly body?: unknown
  readonly hubEndpoint?: string
  readonly kill?: number
}

const task = JSON.parse(process.argv[2]!) as Task
let steps = 0
const onStep = (step: string): void => {
  if (steps === task.kill) process.kill(process.pid, "SIGKILL")
  if (task.kill === undefined) console.log(`step ${step}`)
  steps += 1
}
const sources = sourcesFor(task.hubEndpoint === undefined ? {} : { hubEndpoint: task.hubEndpoint })
const models = await startModels(task.home, { ...sources, onStep })
console.log("ready")
const { status, text } = await models.ask(task.method, task.url, task.body)
console.log(`status ${status}`)
if (status !== 200) console.log(text)
await models.dispose()
process.exit(0)
