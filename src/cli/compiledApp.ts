/** The application inside the compiled binary: the guest agent is embedded in it. */
import agentPath from "../../guest/build/agent" with { type: "file" }
import { enterApp } from "./enterApp.ts"

enterApp({ command: [process.execPath], agentPath })
