/** The worker's own text: it runs on another thread and is never imported as a module. */
declare const text: string
export default text
