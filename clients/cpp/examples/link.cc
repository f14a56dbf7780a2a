// The program of README.md.

#include <meshnode/link.h>

#include <chrono>
#include <iostream>

using std::chrono::seconds;

int main(int argc, char** argv) {
  meshnode::Options options;
  options.node = "db";
  meshnode::Link db(argc > 1 ? argv[1] : "127.0.0.1:2528", options);

  try {
    meshnode::Request set("@sdb", "SET", "greeting=hello");
    set.timeout = seconds(5);
    db.Call(set).get();

    std::cout << db.Call(meshnode::Request("@sdb", "GET", "greeting")).get().payload << "\n";

    db.Send(meshnode::Request("@sdb", "PING", "one way")).get();
  } catch (const meshnode::Error& e) {
    // not sent, rejected, maybe executed, handler failed
    std::cerr << e.what() << " (" << ToString(e.verdict()) << ")\n";
    return 1;
  }
  db.Close();  // the push was placed when this returns
}
