/** The application inside the compiled binary. */
export { enterApp } from "./enterApp.ts"
