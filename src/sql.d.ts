/** Lets `.sql` files be imported as text; the bundler embeds them in the compiled binary. */
declare module "*.sql" {
  const text: string
  export default text
}
