/** Enters the program as one compiled binary: the guest agent is embedded in it. */
import agentPath from "../../guest/build/agent" with { type: "file" }
import { enter } from "./enter.ts"

enter({ command: [process.execPath], agentPath })
