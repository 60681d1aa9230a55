"""The inference component: answers requests on MQTT topics with the models of the device it runs on."""
