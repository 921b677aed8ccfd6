/** A promise of the whole system that no single law names. */
export class PromiseBroken extends Error {
  override readonly name = "PromiseBroken";
  constructor(
    readonly rule: string,
    readonly what: string,
  ) {
    super(`${rule}: ${what}`);
  }
}
