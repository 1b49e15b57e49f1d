// Package job does what the controller asks an edge to do once: to ask who answers and
// on which way (ping and trace), to record packets, to collect what explains how the
// edge fares, and to make tunnels anew. A [Runner] has few jobs at a time, each bounded
// in time and in what it brings.
package job
