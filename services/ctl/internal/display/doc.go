// Package display turns resources into what a person or a program reads:
// tables, blocks of keys and values, JSON and YAML.
//
// Every text goes through Clean before it reaches a table or a block; colour is
// put around it after that, and only where the Palette is on. JSON and YAML are
// the exact proto JSON and are never shortened or humanised. The package writes
// only to the writer it is given, starts no goroutines and knows no flags.
package display
