//go:build race

package server

// atOnce is how many tests run at once under the race detector.
const atOnce = "4"
