// Package bridge lets a browser call the controller's gRPC services: gRPC-Web
// frames come in over HTTP, go on as raw gRPC messages, and answers stream back.
//
// Only methods on the allow-list pass, only the credential of the session goes
// along, and request bodies are bounded. It decodes no message. Safe for
// concurrent use. Unary and server-streaming methods only, as gRPC-Web has no others.
package bridge
