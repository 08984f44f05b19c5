// Names that the scripts share with the tests.
interface Window {
  /** What the page /flame has drawn, for tests and for whoever looks closer. */
  daskFlame: object;
}
