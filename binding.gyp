# For node-gyp users: hands over to the one build description, CMakeLists.txt.
{
  "targets": [
    {
      "target_name": "longhaul_addon",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/longhaul.node"],
          "action": ["node", "native/build.mjs"]
        }
      ]
    }
  ]
}
