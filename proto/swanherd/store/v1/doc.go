// Package storev1 holds the messages that the controller stores and that no
// client sees.
package storev1
