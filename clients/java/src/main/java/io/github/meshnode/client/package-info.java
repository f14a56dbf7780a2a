/**
 * Calls the services of a meshnode mesh, and answers as one: {@link io.github.meshnode.client.Link} and {@link
 * io.github.meshnode.client.Serve}.
 */
package io.github.meshnode.client;
