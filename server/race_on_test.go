//go:build race

package server

// atOnce is how many tests run at once under the race detector.
const atOnce = "4"

// flood is how many fetches are invented.
const flood = 100_000
