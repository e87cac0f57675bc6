package sqlite

// PageChecksum is for tests that make pages by hand.
var PageChecksum = pageChecksum
