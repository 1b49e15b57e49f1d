// Package kms has keys wrapped by a key management service, so that the key which seals
// the controller's secrets is on no disk of the controller's: only who may call the
// service opens a stolen store.
//
// It owns how such a service is talked to. What is wrapped, and when, is package store's;
// a wrapper here is a store.Wrapper.
package kms
